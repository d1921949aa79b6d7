-- Items with the number of their positive events and the time of their first event, oldest first.
-- Grain: one row per item_id that has a positive event before `day`.
select
    item_id,
    count(*) as n_positives,
    epoch_us(min(rated_at)) as first_at
from events
where
    rated_at < $day::date
    and rating >= $positive_rating::float
group by item_id
order by first_at, item_id
