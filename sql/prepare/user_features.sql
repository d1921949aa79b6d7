-- Every user of the splits under two protocols: `paper` knows the train rows, `nightly` all rows.
-- A user without rows, one that train has not seen, has the protocol's global mean and counts of
-- zero: that is all that can be said of a cold user.
-- Grain: one row per protocol and user_id of the splits.
with protocols as (
    select
        unnest(['nightly', 'paper']) as protocol,
        $sampled_negatives::boolean as has_samples
),

known as (
    select
        protocols.protocol,
        splits.user_id,
        splits.label,
        splits.rated_at,
        protocols.protocol = 'nightly' or splits.split = 'train' as is_known,
        splits.label = 1 or not protocols.has_samples as is_event
    from splits
    cross join protocols
),

of_users as (
    select
        protocol,
        user_id,
        count(*) filter (where is_known) as n_rows,
        count(*) filter (where is_known and label = 1) as n_positives,
        count(*) filter (where is_known and is_event) as n_events,
        min(rated_at) filter (where is_known and is_event) as first_at,
        max(rated_at) filter (where is_known and is_event) as last_at
    from known
    group by protocol, user_id
),

of_all as (
    select
        protocol,
        $smoothing::double as smoothing,
        sum(n_positives) / sum(n_rows) as mean
    from of_users
    group by protocol
)

select
    of_users.protocol,
    of_users.user_id,
    (
        (of_users.n_positives + of_all.smoothing * of_all.mean)
        / (of_users.n_rows + of_all.smoothing)
    )::float as mean,
    of_users.n_events::integer as n_events,
    of_users.n_positives::integer as n_positives,
    of_users.first_at,
    of_users.last_at
from of_users
inner join of_all on of_users.protocol = of_all.protocol
order by of_users.protocol, of_users.user_id
