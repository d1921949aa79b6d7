-- What a row of `histories` means: positives of each user by time and turn, oldest first; empty
-- for a user without any. This is the definition: jobs/prepare/splits.py makes the same lists as
-- it streams, and is held to them by tests.
-- Grain: one row per user_id of the labelled rows.
select
    user_id,
    coalesce(list(item_id order by rated_at, turn) filter (where label = 1), []) as item_ids
from labelled
group by user_id
order by user_id
