-- Items of the events by number, for a job that works on numbers: places in the sorted list, good
-- for one run. `word` stands for the item in draws and is the same in every night.
-- Grain: one row per item_id.
with items as (
    select distinct item_id from events
)

select
    item_id,
    row_number() over (order by item_id) - 1 as number,
    (md5_number_lower(item_id::varchar) >> 1)::bigint as word
from items
order by item_id
