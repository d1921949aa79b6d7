-- Events that cannot be: of an unknown item, out of range, known before they happened, or twice.
-- Grain: one row per violation.
with double_rows as (
    select source_row from events
    group by source_row
    having count(*) > 1
),

double_keys as (
    select
        user_id,
        item_id,
        rated_at
    from events
    group by user_id, item_id, rated_at
    having count(*) > 1
),

judged as (
    select
        events.user_id,
        events.item_id,
        events.rated_at,
        case
            when items.item_id is null then 'unknown item'
            when events.rating not between domains.minimum and domains.maximum
                then 'rating out of range'
            when events.rated_at > events.ingested_at then 'known before it happened'
            when events.source_row in (select double_rows.source_row from double_rows)
                then 'two events from one row of the source'
            when double_keys.user_id is not null then 'two events of one user, item and time'
        end as violation
    from events
    cross join domains
    left join items on events.item_id = items.item_id
    left join double_keys
        on
            events.user_id = double_keys.user_id
            and events.item_id = double_keys.item_id
            and events.rated_at = double_keys.rated_at
)

select
    user_id,
    item_id,
    rated_at,
    violation
from judged
where violation is not null
order by user_id, item_id, rated_at
