-- Features of rows that cannot be: missing for a row, of no row, of a moment after the row, out of
-- range, counting an event of the day itself, or more than train holds.
-- Grain: one row per violation.
with train_items as (
    select
        item_id,
        count(*) as n_rows
    from splits
    where split = 'train'
    group by item_id
),

train_users as (
    select
        user_id,
        count(*) as n_rows
    from splits
    where split = 'train'
    group by user_id
),

judged as (
    select
        coalesce(splits.split, row_features.split) as split,
        coalesce(splits.row, row_features.row) as row,
        case
            when row_features.split is null then 'row without features'
            when splits.split is null then 'features of no row'
            when row_features.as_of > splits.rated_at then 'as of a moment after the row'
            when
                least(row_features.global_mean, row_features.item_mean, row_features.user_mean) < 0
                or greatest(
                    row_features.global_mean, row_features.item_mean, row_features.user_mean
                ) > 1
                then 'a mean is not between 0 and 1'
            when
                row_features.item_popularity not between 0 and 1
                then 'popularity is not between 0 and 1'
            when least(row_features.item_count, row_features.user_count) < 0 then 'count below zero'
            when
                (row_features.item_count = 0) <> (row_features.item_age_days is null)
                or (row_features.item_count = 0) <> (row_features.item_recency_days is null)
                or (row_features.user_count = 0) <> (row_features.user_recency_days is null)
                then 'age or recency without events, or events without them'
            when
                least(row_features.item_recency_days, row_features.user_recency_days) < 1
                then 'counts an event of the day itself'
            when
                row_features.item_recency_days > row_features.item_age_days
                then 'last event before the first'
            when
                row_features.item_count > coalesce(train_items.n_rows, 0)
                or row_features.user_count > coalesce(train_users.n_rows, 0)
                then 'more events than train holds'
        end as violation
    from splits
    full outer join row_features
        on splits.split = row_features.split and splits.row = row_features.row
    left join train_items on splits.item_id = train_items.item_id
    left join train_users on splits.user_id = train_users.user_id
)

select
    split,
    row,
    violation
from judged
where violation is not null
order by split, row
