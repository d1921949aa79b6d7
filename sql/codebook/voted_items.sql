-- How often each item was voted on as one of two protocols knows it, and when for the last time.
-- Grain: one row per item of the catalogue.
with counted as (
    select
        item_id,
        count(*) as n_votes,
        max(epoch_us(rated_at)) as last_us
    from splits
    where
        ($protocol = 'nightly' or split = 'train')
        and (label = 1 or not $sampled_negatives)
    group by item_id
)

select
    item_numbers.number as item,
    coalesce(counted.n_votes, 0)::bigint as n_votes,
    counted.last_us
from item_numbers
left join counted on item_numbers.item_id = counted.item_id
order by item_numbers.number
