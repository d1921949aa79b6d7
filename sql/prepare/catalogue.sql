-- Catalogue as its files leave it: of several rows of one item, the last of the latest file stands.
-- Grain: one row per item_id.
select
    item_id,
    arg_max(title, source_row) as title
from catalogue_rows
group by item_id
order by item_id
