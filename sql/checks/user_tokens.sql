-- Soft tokens of users that cannot be: missing for a user with inputs, or zero.
-- Vectors are cast to plain lists, since their length is not known here.
-- Grain: one row per violation.
with measured as (
    select
        user_id,
        list_inner_product(tokens::float[], tokens::float[]) as norm2
    from user_tokens
),

judged as (
    select
        coalesce(user_token_inputs.user_id, measured.user_id) as user_id,
        case
            when measured.user_id is null then 'no tokens for this user'
            when user_token_inputs.user_id is null then 'tokens of a user without inputs'
            when measured.norm2 = 0 then 'tokens are zero'
        end as violation
    from user_token_inputs
    full outer join measured on user_token_inputs.user_id = measured.user_id
)

select
    user_id,
    violation
from judged
where violation is not null
order by user_id
