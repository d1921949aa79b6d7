-- User factors that cannot be: missing for a user of train, of nobody, or with a count below zero.
-- Grain: one row per violation.
with train_users as (
    select distinct user_id from splits
    where split = 'train'
),

known_users as (
    select distinct user_id from events
),

judged as (
    select
        coalesce(user_factors.user_id, train_users.user_id) as user_id,
        case
            when user_factors.user_id is null then 'no factor for this user of train'
            when known_users.user_id is null then 'factor of an unknown user'
            when user_factors.n_events < 0 then 'count below zero'
        end as violation
    from user_factors
    full outer join train_users on user_factors.user_id = train_users.user_id
    left join known_users on user_factors.user_id = known_users.user_id
)

select
    user_id,
    violation
from judged
where violation is not null
order by user_id
