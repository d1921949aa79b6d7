-- Events before `day`, labelled. Splits follow from each user's own order (leave_last_out in
-- jobs/prepare/splitting/offsets.py): the last positive is test, the one before it valid; 1 stands
-- for train.
-- Only events from `since` on and before `until`, so that a long time can be read in pieces.
-- `turn` orders the rows of one user and moment as the source did.
-- In no order: the rows stream to jobs/prepare/splitting/shuffle.py, which orders them.
-- Grain: one row per event before `day`.
select
    user_id,
    item_id,
    rated_at,
    source_row as turn,
    (rating >= $positive_rating::float)::tinyint as label,
    1::tinyint as split
from events
where
    rated_at < $day::date
    and rated_at >= $since::timestamp
    and rated_at < $until::timestamp
