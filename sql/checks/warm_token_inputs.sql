-- Inputs of warm tokens that cannot be: missing for a text, of no text, or zero.
-- Vectors are cast to plain lists, since their length is not known here.
-- Grain: one row per violation.
with measured as (
    select
        item_id,
        list_inner_product(input::float[], input::float[]) as norm2
    from warm_token_inputs
),

judged as (
    select
        coalesce(item_texts.item_id, measured.item_id) as item_id,
        case
            when measured.item_id is null then 'no inputs for this text'
            when item_texts.item_id is null then 'inputs of an unknown item'
            when measured.norm2 = 0 then 'inputs are zero'
        end as violation
    from item_texts
    full outer join measured on item_texts.item_id = measured.item_id
)

select
    item_id,
    violation
from judged
where violation is not null
order by item_id
