-- Ratings that stand: known on the day, readable, of a known item, the first of their moment.
-- Grain: one row per user_id, item_id and rated_at.
select
    user_id,
    item_id,
    rating,
    rated_at,
    ingested_at,
    source_row
from known_ratings
where source_row not in (select rejected_ratings.source_row from rejected_ratings)
order by user_id, item_id, rated_at
