-- Inputs of soft tokens that cannot be: of nobody.
-- Grain: one row per violation.
select
    user_token_inputs.user_id,
    'inputs of an unknown user' as violation
from user_token_inputs
left join histories on user_token_inputs.user_id = histories.user_id
where histories.user_id is null
order by user_token_inputs.user_id
