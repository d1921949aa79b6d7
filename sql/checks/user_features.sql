-- Features of users that cannot be: missing for a user of the splits under one of the two
-- protocols, of nobody, out of range, or with counts that the splits do not bear out.
-- Grain: one row per violation.
with counted as (
    select
        user_id,
        count(*) as n_rows,
        sum(label)::bigint as n_positives,
        count(*) filter (where split = 'train') as n_train_rows,
        count(*) filter (where split = 'train' and label = 1) as n_train_positives
    from splits
    group by user_id
),

expected as (
    select
        user_id,
        'nightly' as protocol,
        n_rows,
        n_positives
    from counted
    union all
    select
        user_id,
        'paper' as protocol,
        n_train_rows as n_rows,
        n_train_positives as n_positives
    from counted
),

judged as (
    select
        coalesce(expected.protocol, user_features.protocol) as protocol,
        coalesce(expected.user_id, user_features.user_id) as user_id,
        case
            when user_features.user_id is null then 'no features for this user'
            when expected.user_id is null then 'features of an unknown user or protocol'
            when user_features.mean not between 0 and 1 then 'mean is not between 0 and 1'
            when
                user_features.n_positives <> expected.n_positives
                then 'not as many positives as in the splits'
            when
                user_features.n_events < user_features.n_positives
                or user_features.n_events > expected.n_rows
                then 'fewer events than positives, or more than rows'
            when
                (user_features.n_events = 0) <> (user_features.first_at is null)
                or (user_features.n_events = 0) <> (user_features.last_at is null)
                then 'times without events, or events without times'
            when user_features.first_at > user_features.last_at then 'last event before the first'
        end as violation
    from expected
    full outer join user_features
        on
            expected.user_id = user_features.user_id
            and expected.protocol = user_features.protocol
)

select
    protocol,
    user_id,
    violation
from judged
where violation is not null
order by protocol, user_id
