-- Events before `day`, labelled, split by time: the last `test_days` days are test, the
-- `valid_days` before them valid, everything earlier train. Half-open: the day is the future.
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
    (
        case
            when rated_at >= $day::date - $test_days::integer then 0
            when rated_at >= $day::date - $test_days::integer - $valid_days::integer then 2
            else 1
        end
    )::tinyint as split
from events
where
    rated_at < $day::date
    and rated_at >= $since::timestamp
    and rated_at < $until::timestamp
