-- Rows of a split that cannot be: no event behind them, misnumbered, a history that reaches past
-- its list, or to the row itself or later, or a warm flag that train does not bear out.
-- Grain: one row per violation.
with train_users as (
    select distinct user_id from splits
    where split = 'train'
),

train_items as (
    select distinct item_id from splits
    where split = 'train'
),

numbered as (
    select
        split,
        row,
        user_id,
        item_id,
        label,
        rated_at,
        history_end,
        is_warm,
        row_number() over (partition by split order by row) - 1 as place,
        coalesce(sum(label::integer) over before, 0) as n_before,
        sum(label::integer) over until as n_until
    from splits
    window
        before as (
            partition by user_id
            order by epoch_us(rated_at)
            range between unbounded preceding and 1 preceding
        ),
        until as (
            partition by user_id
            order by epoch_us(rated_at)
            range between unbounded preceding and current row
        )
),

judged as (
    select
        numbered.split,
        numbered.row,
        case
            when numbered.split not in ('train', 'valid', 'test') then 'unknown split'
            when numbered.label not in (0, 1) then 'label is neither 0 nor 1'
            when numbered.row <> numbered.place then 'row numbers have a gap'
            when events.user_id is null then 'no such event'
            when histories.user_id is null then 'user without a history'
            when
                numbered.history_end not between 0 and len(histories.item_ids)
                then 'history_end is outside the user''s list'
            when
                numbered.history_end < numbered.n_before
                then 'the history misses a positive of earlier time'
            when
                numbered.history_end > numbered.n_until - numbered.label
                then 'the history shows the row itself or a later one'
            when
                numbered.is_warm <> (
                    train_users.user_id is not null and train_items.item_id is not null
                )
                then 'is_warm is not what train says'
        end as violation
    from numbered
    left join histories on numbered.user_id = histories.user_id
    left join events
        on
            numbered.user_id = events.user_id
            and numbered.item_id = events.item_id
            and numbered.rated_at = events.rated_at
    left join train_users on numbered.user_id = train_users.user_id
    left join train_items on numbered.item_id = train_items.item_id
)

select
    split,
    row,
    violation
from judged
where violation is not null
union all
select
    'train' as split,
    null as row,
    'nothing to train on' as violation
where not exists (select 1 from train_users)
order by split, row
