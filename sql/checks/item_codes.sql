-- Codes that cannot be: missing for an item with semantics, of no such item, of another length
-- than the codebook has levels, or outside it.
-- Grain: one row per violation.
with shape as (
    select
        max(level) + 1 as n_levels,
        max(code) + 1 as n_codes
    from codebook
),

judged as (
    select
        coalesce(item_semantics.item_id, item_codes.item_id) as item_id,
        case
            when item_codes.item_id is null then 'no codes for this item'
            when item_semantics.item_id is null then 'codes of an unknown item'
            when
                coalesce(len(item_codes.codes), 0) <> shape.n_levels
                then 'not as many codes as the codebook has levels'
            when
                list_min(item_codes.codes) < 0 or list_max(item_codes.codes) >= shape.n_codes
                then 'a code that is not in the codebook'
        end as violation
    from item_semantics
    full outer join item_codes on item_semantics.item_id = item_codes.item_id
    cross join shape
)

select
    item_id,
    violation
from judged
where violation is not null
order by item_id
