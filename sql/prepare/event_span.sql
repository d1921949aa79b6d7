-- How many events there are, and from when to when, for what is said when none can be used.
-- Grain: one row per query.
select
    count(*) as n_events,
    min(rated_at) as first,
    max(rated_at) as last
from events
order by n_events
