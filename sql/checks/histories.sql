-- Histories that cannot be: of a user without rows, of another length than the user's positives,
-- or with an item that is not among them.
-- Grain: one row per violation.
with positives as (
    select
        user_id,
        sum(label)::bigint as n_positives,
        list(distinct item_id) filter (where label = 1) as item_ids
    from splits
    group by user_id
),

judged as (
    select
        coalesce(histories.user_id, positives.user_id) as user_id,
        case
            when positives.user_id is null then 'no row of any split is of this user'
            when histories.user_id is null then 'no history for this user'
            when
                len(histories.item_ids) <> positives.n_positives
                then 'not as long as the user has positives'
            when
                not list_has_all(coalesce(positives.item_ids, []), histories.item_ids)
                then 'holds an item that is no positive of the user'
        end as violation
    from histories
    full outer join positives on histories.user_id = positives.user_id
)

select
    user_id,
    violation
from judged
where violation is not null
order by user_id
