-- Events in the window of the published MovieLens-1M split, labelled, in the published order.
-- A month's slot is (year - 2000) * 12 + month - 4 in UTC: train 14 to 23, valid 24 to 28, test
-- 29 to 33; others are left out. Within a user's second the order is the movie's first appearance
-- in the source, then the source's row. A row sees all positives before it in that order, so
-- `moment` is the place itself.
-- Grain: one row per event of the window.
with slotted as (
    select
        events.user_id,
        events.item_id,
        events.rated_at,
        events.source_row,
        items.first_row,
        events.rating,
        (year(events.rated_at) - 2000) * 12 + month(events.rated_at) - 4 as slot
    from events
    inner join items on events.item_id = items.item_id
)

select
    case when slot <= 23 then 'train' when slot <= 28 then 'valid' else 'test' end as split,
    user_id,
    item_id,
    (rating >= $positive_rating::float)::tinyint as label,
    rated_at,
    row_number() over published as place,
    row_number() over published as moment
from slotted
where slot between 14 and 33
window published as (order by user_id, rated_at, first_row, source_row)
order by place
