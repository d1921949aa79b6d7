-- Rows that earlier arrivals took of one raw file, events and others, in the columns of `found`.
-- `own_day` is the day that knows a row by its own clock, also where the row turned up later.
-- `rejected_rows` says nothing of the rating's form, so a duplicate is known by its values alone.
-- In no order: a step of a larger query, which sorts.
-- Grain: one row per row of the file.
with corrected as (
    select distinct corrects as source_row from event_rows
    where corrects is not null
),

dated_events as (
    select
        source_row,
        user_id,
        item_id,
        rated_at,
        rating,
        case
            when $has_arrivals::boolean
                then greatest(
                    (ingested_at - interval 1 microsecond)::date + 1, rated_at::date + 1
                )
            else rated_at::date + 1
        end as own_day
    from event_rows
    where source_row not in (select released.source_row from released)
),

kept_events as (
    select
        dated_events.own_day,
        dated_events.source_row,
        dated_events.user_id,
        dated_events.item_id,
        dated_events.rated_at,
        dated_events.rating,
        null::varchar as reason,
        null::varchar as raw,
        corrected.source_row is not null as is_corrected
    from dated_events
    left join corrected on dated_events.source_row = corrected.source_row
),

kept_others as (
    select
        own_day,
        source_row,
        user_id,
        item_id,
        rated_at,
        rating,
        case when reason not in ('duplicate', 'conflicting duplicate') then reason end as reason,
        case when reason not in ('duplicate', 'conflicting duplicate') then raw end as raw,
        false as is_corrected
    from rejected_rows
    where kind = 'event' and reason <> 'unknown item'
)

select
    every_kept.own_day,
    every_kept.source_row,
    every_kept.user_id,
    every_kept.item_id,
    every_kept.rated_at,
    every_kept.rating,
    every_kept.reason,
    every_kept.raw,
    every_kept.is_corrected
from (
    select * from kept_events
    union all
    select * from kept_others
) as every_kept
inner join days on every_kept.own_day = days.own_day
inner join ordinals on every_kept.source_row >> 40 = ordinals.ordinal
