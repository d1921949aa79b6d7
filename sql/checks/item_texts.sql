-- Item texts that cannot be: missing for an item, of no item, or without the item's title.
-- Grain: one row per violation.
with judged as (
    select
        coalesce(items.item_id, item_texts.item_id) as item_id,
        case
            when item_texts.item_id is null then 'no text for this item'
            when items.item_id is null then 'text of an unknown item'
            when item_texts.title <> items.title then 'another title than the item has'
            when not ends_with(item_texts.text, item_texts.title) then 'text without the title'
        end as violation
    from items
    full outer join item_texts on items.item_id = item_texts.item_id
)

select
    item_id,
    violation
from judged
where violation is not null
order by item_id
