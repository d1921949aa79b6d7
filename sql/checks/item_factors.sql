-- Item factors that cannot be: missing for an item of the catalogue (those without events are
-- aligned too), of no item, or with a count below zero.
-- Grain: one row per violation.
with judged as (
    select
        coalesce(item_texts.item_id, item_factors.item_id) as item_id,
        case
            when item_factors.item_id is null then 'no factor for this item'
            when item_texts.item_id is null then 'factor of an unknown item'
            when item_factors.n_events < 0 then 'count below zero'
        end as violation
    from item_texts
    full outer join item_factors on item_texts.item_id = item_factors.item_id
)

select
    item_id,
    violation
from judged
where violation is not null
order by item_id
