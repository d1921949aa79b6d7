-- Warm tokens of items that cannot be: missing for an item with inputs, or zero.
-- Vectors are cast to plain lists, since their length is not known here.
-- Grain: one row per violation.
with measured as (
    select
        item_id,
        list_inner_product(tokens::float[], tokens::float[]) as norm2
    from warm_tokens
),

judged as (
    select
        coalesce(warm_token_inputs.item_id, measured.item_id) as item_id,
        case
            when measured.item_id is null then 'no tokens for this item'
            when warm_token_inputs.item_id is null then 'tokens of an item without inputs'
            when measured.norm2 = 0 then 'tokens are zero'
        end as violation
    from warm_token_inputs
    full outer join measured on warm_token_inputs.item_id = measured.item_id
)

select
    item_id,
    violation
from judged
where violation is not null
order by item_id
