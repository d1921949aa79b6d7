-- What a raw file held of each day, to be compared when the file has changed: how many rows, and a
-- sum over them that another row or value would change. The order of the rows does not matter.
-- Grain: one row per own_day, the day that knows a row by its own clock.
select
    own_day,
    count(*)::bigint as n_rows,
    (sum(hash(user_id, item_id, rated_at, rating, reason, raw)::hugeint) % 1000000007)::bigint
        as signature
from spooled
group by own_day
order by own_day
