-- Each item's title as its events say it: the most frequent one, of equally frequent ones the
-- latest, of equally late ones the first in the alphabet.
-- In no order: `items` sorts them.
-- Grain: one row per item_id that any row names.
with counted as (
    select
        item_id,
        title,
        sum(n_rows) as n_rows,
        max(last_at) as last_at
    from item_rows
    where title is not null and n_rows > 0
    group by item_id, title
)

select
    item_id,
    title
from counted
qualify row_number() over (partition by item_id order by n_rows desc, last_at desc, title asc) = 1
