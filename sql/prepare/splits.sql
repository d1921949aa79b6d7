-- What a row of `splits` means: labelled rows, numbered within their split, each with the end of
-- the history that it may see, the first `history_end` entries of its user's list in `histories`.
-- With `is_strict` a row sees nothing of its own moment, else every positive before it in the
-- order. This is the definition: windows took as long for 5 M rows as the job does for 20 M
-- (jobs/prepare/splits.py), which is held to the same rows by tests.
-- Grain: one row per split and row.
with placed as (
    select
        ['test', 'train', 'valid'][split + 1] as split,
        user_id,
        item_id,
        label,
        rated_at,
        row_number() over (order by user_id, rated_at, turn) as place
    from labelled
),

moved as (
    select
        split,
        user_id,
        item_id,
        label,
        rated_at,
        place,
        case when $is_strict::boolean then epoch_us(rated_at) else place end as moment
    from placed
),

train_users as (
    select distinct user_id from moved
    where split = 'train'
),

train_items as (
    select distinct item_id from moved
    where split = 'train'
)

select
    moved.split,
    (row_number() over (partition by moved.split order by moved.place) - 1)::integer as row,
    moved.user_id,
    moved.item_id,
    moved.label,
    moved.rated_at,
    coalesce(
        sum(moved.label::integer) over (
            partition by moved.user_id
            order by moved.moment
            range between unbounded preceding and 1 preceding
        ),
        0
    )::integer as history_end,
    (train_users.user_id is not null and train_items.item_id is not null) as is_warm
from moved
left join train_users on moved.user_id = train_users.user_id
left join train_items on moved.item_id = train_items.item_id
order by moved.split, row
