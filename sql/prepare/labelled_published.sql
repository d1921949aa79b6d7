-- Events in the window of the published MovieLens-1M split, labelled.
-- A month's slot is (year - 2000) * 12 + month - 4 in UTC: train 14 to 23, valid 24 to 28, test
-- 29 to 33; others are left out. Within a user's second the order (`turn`) is the movie's first
-- appearance in the source, then the source's row.
-- In no order: the rows stream to jobs/prepare/splitting/shuffle.py, which orders them.
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
    user_id,
    item_id,
    rated_at,
    row_number() over (order by first_row, source_row) as turn,
    (rating >= $positive_rating::float)::tinyint as label,
    (case when slot <= 23 then 1 when slot <= 28 then 2 else 0 end)::tinyint as split
from slotted
where slot between 14 and 33
