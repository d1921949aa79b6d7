-- Positives of each user in the order of the split, oldest first; empty for a user without any.
-- Grain: one row per user_id of the labelled rows.
select
    user_id,
    coalesce(list(item_id order by place) filter (where label = 1), []) as item_ids
from labelled
group by user_id
order by user_id
