-- What the LLM reads of an item: "Movie: Toy Story (1995)".
-- Grain: one row per item_id of the catalogue.
select
    items.item_id,
    items.title,
    domains.item_noun || ': ' || items.title as text
from items
cross join domains
order by items.item_id
