-- Events that cannot be: of an unknown item, out of range, or known before they happened.
-- Every domain of today rates from 1 to 5.
-- Grain: one row per violation.
with judged as (
    select
        events.user_id,
        events.item_id,
        events.rated_at,
        case
            when items.item_id is null then 'unknown item'
            when events.rating not between 1 and 5 then 'rating out of range'
            when events.rated_at > events.ingested_at then 'known before it happened'
            when
                count(*) over (partition by events.source_row) > 1
                then 'two events from one row of the source'
        end as violation
    from events
    left join items on events.item_id = items.item_id
)

select
    user_id,
    item_id,
    rated_at,
    violation
from judged
where violation is not null
order by user_id, item_id, rated_at
