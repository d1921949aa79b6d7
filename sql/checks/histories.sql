-- Histories that cannot be: of a user without rows, of another length than the user's positives,
-- or not those positives in the order of the rows.
-- A list and the positives are compared by a sum of hashes of item and place, in one pass in the
-- order of the file: the lists of a hundred million rows would not fit into memory, their sums do.
-- Grain: one row per violation.
with neighbours as (
    select
        splits.split,
        splits.user_id,
        splits.item_id,
        splits.label,
        lag(splits.split) over () as split_before,
        lag(splits.user_id) over () as user_before,
        count(case when splits.label = 1 then 1 end) over up_to_row as n_until
    from splits
    window
        -- An order would make it a sort; the linter knows no frame without one.
        up_to_row as (rows between unbounded preceding and current row) -- noqa: PRS
),

counted as (
    select
        neighbours.*,
        coalesce(
            neighbours.split <> neighbours.split_before
            or neighbours.user_id <> neighbours.user_before,
            true
        ) as is_start
    from neighbours
),

placed as (
    select
        counted.split,
        counted.user_id,
        counted.item_id,
        counted.label,
        counted.n_until - max(
            case when counted.is_start then counted.n_until - (counted.label = 1)::integer end
        ) over up_to_row as place
    from counted
    window
        up_to_row as (rows between unbounded preceding and current row) -- noqa: PRS
),

totals as (
    select
        user_id,
        count(*) filter (where label = 1) as n_positives,
        count(*) filter (where label = 1 and split = 'train') as n_train,
        count(*) filter (where label = 1 and split = 'valid') as n_valid
    from splits
    group by user_id
),

row_sums as (
    select
        placed.user_id,
        sum(
            hash(
                placed.item_id,
                placed.place
                + case placed.split
                    when 'train' then 0
                    when 'valid' then totals.n_train
                    else totals.n_train + totals.n_valid
                end
            )
        ) as fingerprint
    from placed
    inner join totals on placed.user_id = totals.user_id
    where placed.label = 1
    group by placed.user_id
),

listed as (
    select
        user_id,
        unnest(item_ids) as item_id,
        generate_subscripts(item_ids, 1) as place
    from histories
),

list_sums as (
    select
        user_id,
        sum(hash(item_id, place)) as fingerprint
    from listed
    group by user_id
),

judged as (
    select
        coalesce(histories.user_id, totals.user_id) as user_id,
        case
            when totals.user_id is null then 'no row of any split is of this user'
            when histories.user_id is null then 'no history for this user'
            when
                len(histories.item_ids) <> totals.n_positives
                then 'not as long as the user has positives'
            when
                coalesce(list_sums.fingerprint, 0) <> coalesce(row_sums.fingerprint, 0)
                then 'not the positives of the user in their order'
        end as violation
    from histories
    full outer join totals on histories.user_id = totals.user_id
    left join list_sums on histories.user_id = list_sums.user_id
    left join row_sums on totals.user_id = row_sums.user_id
)

select
    user_id,
    violation
from judged
where violation is not null
order by user_id
