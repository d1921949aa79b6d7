-- Rows that an arrival read, good and bad.
-- Grain: one row per known_day.
select
    known_day,
    count(*)::bigint as n_rows
from arrived_rows
group by known_day
order by known_day
