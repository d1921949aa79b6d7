-- Newly arrived rows against those that stand: an event, a duplicate, or a correction.
-- Rows of one user, item and time are judged in the order in which their deliveries became known.
-- Within a delivery the first in the source stands. A later delivery with another rating replaces
-- it if `later_replaces`: the new row `corrects` the one that stood until then.
-- `standing` holds events of earlier arrivals, `arrived` rows whose `known_day` is later.
-- Grain: one row per row of `arrived`; `verdict` is null for an event.
with every_row as (
    select
        user_id,
        item_id,
        rated_at,
        rating,
        source_row,
        known_day,
        event_day,
        ingested_at,
        true as is_new
    from arrived
    union all
    select
        user_id,
        item_id,
        rated_at,
        rating,
        source_row,
        known_day,
        null as event_day,
        null as ingested_at,
        false as is_new
    from standing
),

contested as (
    select
        user_id,
        item_id,
        rated_at
    from every_row
    group by user_id, item_id, rated_at
    having count(*) > 1
),

placed as (
    select
        every_row.user_id,
        every_row.item_id,
        every_row.rated_at,
        every_row.rating,
        every_row.source_row,
        every_row.known_day,
        every_row.is_new,
        row_number() over delivery as place,
        first_value(every_row.rating) over delivery as delivered_rating
    from every_row
    inner join contested
        on
            every_row.user_id = contested.user_id
            and every_row.item_id = contested.item_id
            and every_row.rated_at = contested.rated_at
    window
        delivery as (
            partition by
                every_row.user_id, every_row.item_id, every_row.rated_at, every_row.known_day
            order by every_row.source_row
        )
),

compared as (
    select
        user_id,
        item_id,
        rated_at,
        rating,
        source_row,
        known_day,
        is_new,
        -- What the delivery before said; under "first stands", what the first one said.
        case
            when $later_replaces::boolean then lag(rating) over history
            when row_number() over history > 1 then first_value(rating) over history
        end as rating_before
    from placed
    where place = 1
    window history as (partition by user_id, item_id, rated_at order by known_day)
),

settled as (
    select
        source_row,
        known_day,
        is_new,
        case
            when rating_before = rating then 'duplicate'
            when rating_before is not null and not $later_replaces::boolean
                then 'conflicting duplicate'
        end as verdict,
        case
            when rating_before <> rating and $later_replaces::boolean
                then last_value(
                    case when rating_before is null or rating_before <> rating then source_row end
                    ignore nulls
                ) over earlier
        end as corrects
    from compared
    window
        earlier as (
            partition by user_id, item_id, rated_at
            order by known_day
            rows between unbounded preceding and 1 preceding
        )
),

verdicts as (
    select
        source_row,
        verdict,
        corrects
    from settled
    where is_new
    union all
    select
        source_row,
        case
            when rating = delivered_rating then 'duplicate' else 'conflicting duplicate'
        end as verdict,
        null as corrects
    from placed
    where place > 1 and is_new
)

select
    arrived.event_day,
    arrived.known_day,
    arrived.user_id,
    arrived.item_id,
    arrived.rating,
    arrived.rated_at,
    arrived.ingested_at,
    arrived.source_row,
    verdicts.corrects,
    verdicts.verdict
from arrived
left join verdicts on arrived.source_row = verdicts.source_row
order by arrived.event_day, arrived.known_day, arrived.user_id, arrived.rated_at, arrived.source_row
