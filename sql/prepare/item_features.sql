-- Every item of the catalogue under two protocols: `paper` knows the train rows and ends at the
-- midnight after them, `nightly` knows all rows and ends at `day`. Popularity is the item's share
-- of the events of the last `popularity_days` days before that midnight. An item without rows has
-- the protocol's global mean and counts of zero.
-- Grain: one row per protocol and item_id of the catalogue.
with protocols as (
    select
        'nightly' as protocol,
        $day::date - $popularity_days::integer as first_late_day,
        $sampled_negatives::boolean as has_samples
    union all
    select
        'paper' as protocol,
        max(rated_at)::date + 1 - $popularity_days::integer as first_late_day,
        $sampled_negatives::boolean as has_samples
    from splits
    where split = 'train'
),

known as (
    select
        protocols.protocol,
        splits.item_id,
        splits.label,
        splits.rated_at,
        splits.label = 1 or not protocols.has_samples as is_event,
        splits.rated_at >= protocols.first_late_day as is_late
    from splits
    inner join protocols on protocols.protocol = 'nightly' or splits.split = 'train'
),

of_items as (
    select
        protocol,
        item_id,
        count(*) as n_rows,
        sum(label)::bigint as n_positives,
        count(*) filter (where is_event) as n_events,
        count(*) filter (where is_event and is_late) as n_lately,
        min(rated_at) filter (where is_event) as first_at,
        max(rated_at) filter (where is_event) as last_at
    from known
    group by protocol, item_id
),

of_all as (
    select
        protocol,
        $smoothing::double as smoothing,
        sum(n_positives) / sum(n_rows) as mean,
        sum(n_lately) as n_lately
    from of_items
    group by protocol
)

select
    of_all.protocol,
    items.item_id,
    (
        (coalesce(of_items.n_positives, 0) + of_all.smoothing * of_all.mean)
        / (coalesce(of_items.n_rows, 0) + of_all.smoothing)
    )::float as mean,
    coalesce(of_items.n_events, 0)::integer as n_events,
    coalesce(of_items.n_positives, 0)::integer as n_positives,
    (coalesce(of_items.n_lately, 0) / greatest(of_all.n_lately, 1))::float as popularity,
    of_items.first_at,
    of_items.last_at
from items
cross join of_all
left join of_items
    on items.item_id = of_items.item_id and of_all.protocol = of_items.protocol
order by of_all.protocol, items.item_id
