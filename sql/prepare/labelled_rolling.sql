-- Events before `day`, labelled, split by time: the last `test_days` days are test, the
-- `valid_days` before them valid, everything earlier train. Half-open: the day is the future.
-- A row sees positives of strictly earlier time, so `moment` is the time itself.
-- Grain: one row per event before `day`.
select
    case
        when rated_at >= $day::date - $test_days::integer then 'test'
        when rated_at >= $day::date - $test_days::integer - $valid_days::integer then 'valid'
        else 'train'
    end as split,
    user_id,
    item_id,
    (rating >= $positive_rating::float)::tinyint as label,
    rated_at,
    row_number() over (order by user_id, rated_at, source_row) as place,
    epoch_us(rated_at) as moment
from events
where rated_at < $day::date
order by place
