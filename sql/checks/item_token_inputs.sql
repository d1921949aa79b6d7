-- Inputs of soft tokens that cannot be: of no item of the catalogue.
-- Grain: one row per violation.
select
    item_token_inputs.item_id,
    'inputs of an unknown item' as violation
from item_token_inputs
left join item_texts on item_token_inputs.item_id = item_texts.item_id
where item_texts.item_id is null
order by item_token_inputs.item_id
