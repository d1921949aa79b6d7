-- What a day's events come to.
-- In no order: it is one row.
-- Grain: one row per night.
select
    count(*)::bigint as n_events,
    count(distinct user_id)::bigint as n_users,
    count(distinct item_id)::bigint as n_items,
    min(rated_at) as first_event,
    max(rated_at) as last_event
from events
