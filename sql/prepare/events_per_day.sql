-- Number of events of each day, to cut the time into pieces of like size.
-- Grain: one row per day with events.
select
    rated_at::date as day,
    count(*) as n_events
from events
group by rated_at::date
order by day
