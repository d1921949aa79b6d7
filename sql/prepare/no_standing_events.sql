-- What stands before the first arrival of some days: nothing, in the columns of `arrived`.
-- In no order: a step of a larger query, which sorts.
-- Grain: one row per event that stands, so none.
select
    user_id,
    item_id,
    rated_at,
    rating,
    source_row,
    known_day
from arrived
where false
