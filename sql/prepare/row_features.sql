-- What was known of a row's item and user at the midnight before the row: smoothed means, counts,
-- age, recency, popularity. Nothing of the row's own day, and nothing of valid and test rows: those
-- are seen at the midnight that ends train, so that no feature of theirs moves with the user's own
-- evaluated rows. A mean is (positives + smoothing * global mean) / (rows + smoothing). Sums run
-- over days, not rows: linear, and the cost of an item with a million events is that of its days.
-- Left joins keep their order: the planner would begin with items x users of a day.
-- Grain: one row per split and row.
with train_end as (
    select
        max(rated_at)::date + 1 as midnight,
        $sampled_negatives::boolean as has_samples
    from splits
    where split = 'train'
),

dated as (
    select
        splits.split,
        splits.row,
        splits.user_id,
        splits.item_id,
        case
            when splits.split = 'train' then splits.rated_at::date
            else least(splits.rated_at::date, train_end.midnight)
        end as as_of,
        (splits.split = 'train')::integer as is_row,
        (splits.split = 'train' and splits.label = 1)::integer as is_positive,
        (
            splits.split = 'train' and (splits.label = 1 or not train_end.has_samples)
        )::integer as is_event
    from splits
    cross join train_end
),

item_days as (
    select
        item_id,
        as_of,
        as_of - date '1970-01-01' as day_number,
        sum(is_row)::bigint as n_rows,
        sum(is_positive)::bigint as n_positives,
        sum(is_event)::bigint as n_events
    from dated
    group by item_id, as_of
),

user_days as (
    select
        user_id,
        as_of,
        as_of - date '1970-01-01' as day_number,
        sum(is_row)::bigint as n_rows,
        sum(is_positive)::bigint as n_positives,
        sum(is_event)::bigint as n_events
    from dated
    group by user_id, as_of
),

days as (
    select
        as_of,
        as_of - date '1970-01-01' as day_number,
        sum(is_row)::bigint as n_rows,
        sum(is_positive)::bigint as n_positives,
        sum(is_event)::bigint as n_events
    from dated
    group by as_of
),

of_items as (
    select
        item_id,
        as_of,
        coalesce(sum(n_rows) over before, 0) as n_rows,
        coalesce(sum(n_positives) over before, 0) as n_positives,
        coalesce(sum(n_events) over before, 0) as n_events,
        coalesce(sum(n_events) over lately, 0) as n_lately,
        day_number - min(case when n_events > 0 then day_number end) over before as age_days,
        day_number - max(case when n_events > 0 then day_number end) over before as recency_days
    from item_days
    window
        before as (
            partition by item_id
            order by day_number
            rows between unbounded preceding and 1 preceding
        ),
        lately as (
            partition by item_id
            order by day_number
            range between $popularity_days preceding and 1 preceding
        )
),

of_users as (
    select
        user_id,
        as_of,
        coalesce(sum(n_rows) over before, 0) as n_rows,
        coalesce(sum(n_positives) over before, 0) as n_positives,
        coalesce(sum(n_events) over before, 0) as n_events,
        day_number - max(case when n_events > 0 then day_number end) over before as recency_days
    from user_days
    window
        before as (
            partition by user_id
            order by day_number
            rows between unbounded preceding and 1 preceding
        )
),

of_days as (
    select
        as_of,
        $smoothing::double as smoothing,
        -- A day may come after days of valid and test rows alone, whose sums are 0.
        coalesce(sum(n_positives) over before / nullif(sum(n_rows) over before, 0), 0.5) as mean,
        coalesce(sum(n_events) over lately, 0) as n_lately
    from days
    window
        before as (
            order by day_number
            rows between unbounded preceding and 1 preceding
        ),
        lately as (
            order by day_number
            range between $popularity_days preceding and 1 preceding
        )
)

select
    dated.split,
    dated.row,
    dated.as_of,
    of_days.mean::float as global_mean,
    (
        (of_items.n_positives + of_days.smoothing * of_days.mean)
        / (of_items.n_rows + of_days.smoothing)
    )::float as item_mean,
    of_items.n_events::integer as item_count,
    of_items.age_days::integer as item_age_days,
    of_items.recency_days::integer as item_recency_days,
    (of_items.n_lately / greatest(of_days.n_lately, 1))::float as item_popularity,
    (
        (of_users.n_positives + of_days.smoothing * of_days.mean)
        / (of_users.n_rows + of_days.smoothing)
    )::float as user_mean,
    of_users.n_events::integer as user_count,
    of_users.recency_days::integer as user_recency_days
from dated
left join of_items on dated.item_id = of_items.item_id and dated.as_of = of_items.as_of
left join of_users on dated.user_id = of_users.user_id and dated.as_of = of_users.as_of
left join of_days on dated.as_of = of_days.as_of
order by dated.split, dated.row
