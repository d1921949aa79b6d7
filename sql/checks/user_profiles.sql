-- Profiles that cannot be: missing for a user with opinions under one of the two protocols, of no
-- such user, with other events than the splits bear out, or with a mass below zero in likes or
-- dislikes. A sampled negative is no opinion.
-- Sums of embeddings, of the kind 'content', have every sign.
-- Grain: one row per violation.
with voted as (
    select
        splits.user_id,
        splits.split
    from splits
    cross join domains
    where splits.label = 1 or domains.negatives_per_positive = 0
),

expected as (
    select
        'nightly' as protocol,
        user_id,
        count(*) as n_events
    from voted
    group by user_id
    union all
    select
        'paper' as protocol,
        user_id,
        count(*) as n_events
    from voted
    where split = 'train'
    group by user_id
),

judged as (
    select
        coalesce(expected.protocol, user_profiles.protocol) as protocol,
        coalesce(expected.user_id, user_profiles.user_id) as user_id,
        case
            when user_profiles.user_id is null then 'no profile of this user'
            when expected.user_id is null then 'profile of a user without events, or protocol'
            when user_profiles.n_events <> expected.n_events then 'not as many events as rows'
            when
                user_profiles.kind <> 'content' and least(
                    list_min(user_profiles.likes::float[]),
                    list_min(user_profiles.dislikes::float[])
                ) < 0
                then 'likes or dislikes below zero'
            when
                user_profiles.kind <> 'content'
                and abs(
                    list_sum(user_profiles.profile::float[])
                    - round(list_sum(user_profiles.profile::float[]))
                ) > 1e-3
                then 'shares do not sum to the number of levels'
        end as violation
    from expected
    full outer join user_profiles
        on
            expected.protocol = user_profiles.protocol
            and expected.user_id = user_profiles.user_id
)

select
    protocol,
    user_id,
    violation
from judged
where violation is not null
order by protocol, user_id
