-- Items that cannot be: without a title, or with events and yet without a first appearance.
-- Grain: one row per violation.
with first_events as (
    select
        item_id,
        min(source_row) as first_event_row
    from events
    group by item_id
),

judged as (
    select
        items.item_id,
        case
            when trim(items.title) = '' then 'empty title'
            when items.first_row < 1 then 'first appearance before the first row'
            when
                first_events.item_id is not null and items.first_row is null
                then 'events, but no first appearance'
            when
                items.first_row > first_events.first_event_row
                then 'an event before the first appearance'
        end as violation
    from items
    left join first_events on items.item_id = first_events.item_id
)

select
    item_id,
    violation
from judged
where violation is not null
order by item_id
