-- Labels that cannot be: missing for an item with semantics, of no such item, of another length
-- than there are vocabularies, or outside them.
-- Grain: one row per violation.
with shape as (
    select
        max(level) + 1 as n_levels,
        max(code) + 1 as n_codes
    from label_codebook
),

judged as (
    select
        coalesce(item_semantics.item_id, item_labels.item_id) as item_id,
        case
            when item_labels.item_id is null then 'no labels for this item'
            when item_semantics.item_id is null then 'labels of an unknown item'
            when
                coalesce(len(item_labels.codes), 0) <> shape.n_levels
                then 'not as many labels as there are vocabularies'
            when
                list_min(item_labels.codes) < 0 or list_max(item_labels.codes) >= shape.n_codes
                then 'a label that is not in its vocabulary'
        end as violation
    from item_semantics
    full outer join item_labels on item_semantics.item_id = item_labels.item_id
    cross join shape
)

select
    item_id,
    violation
from judged
where violation is not null
order by item_id
