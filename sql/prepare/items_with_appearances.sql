-- The catalogue, each item with its first appearance in the whole of a source of which the events
-- are a part: `appearances` says where. `first_row` is null for an item that nobody ever rated.
-- Grain: one row per item_id of the catalogue.
with first_appearances as (
    select
        item_id,
        min(source_row) as first_row
    from appearances
    group by item_id
)

select
    catalogue.item_id,
    catalogue.title,
    first_appearances.first_row
from catalogue
left join first_appearances on catalogue.item_id = first_appearances.item_id
order by catalogue.item_id
