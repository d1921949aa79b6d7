-- Catalogue as the item deliveries leave it: the latest delivery of an item gives its title.
-- Grain: one row per item_id.
select
    item_id,
    arg_max(title, (delivery, line)) as title
from item_deliveries
group by item_id
order by item_id
