-- What users said of items, as one of two protocols knows it: paper (the train rows alone) or
-- nightly (all rows of the splits). A sampled negative is nobody's opinion.
-- Grain: one row per row of the splits that counts, the rows of a user together.
with counted as (
    select
        user_id,
        item_id,
        label,
        epoch_us(rated_at) as rated_us
    from splits
    where
        ($protocol = 'nightly' or split = 'train')
        and (label = 1 or not $sampled_negatives)
)

select
    counted.user_id,
    item_numbers.number as item,
    counted.label,
    counted.rated_us
from counted
inner join item_numbers on counted.item_id = item_numbers.item_id
order by counted.user_id, counted.rated_us, item_numbers.number, counted.label
