-- Days of the events that an arrival read.
-- Grain: one row per event_day.
select
    event_day,
    count(*)::bigint as n_rows
from arrived_rows
group by event_day
order by event_day
