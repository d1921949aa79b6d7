-- Labelled rows, numbered within their split, each with the end of the history that it may see:
-- the first `history_end` entries of its user's list in `histories`.
-- `moment` is an integer, so the range frame is strict: a row sees nothing of its own moment. The
-- frame keeps one running sum per user: linear, where a list per row would be quadratic.
-- Grain: one row per split and row.
with train_users as (
    select distinct user_id from labelled
    where split = 'train'
),

train_items as (
    select distinct item_id from labelled
    where split = 'train'
)

select
    labelled.split,
    (row_number() over (partition by labelled.split order by labelled.place) - 1)::integer as row,
    labelled.user_id,
    labelled.item_id,
    labelled.label,
    labelled.rated_at,
    coalesce(
        sum(labelled.label::integer) over (
            partition by labelled.user_id
            order by labelled.moment
            range between unbounded preceding and 1 preceding
        ),
        0
    )::integer as history_end,
    (train_users.user_id is not null and train_items.item_id is not null) as is_warm
from labelled
left join train_users on labelled.user_id = train_users.user_id
left join train_items on labelled.item_id = train_items.item_id
order by labelled.split, row
