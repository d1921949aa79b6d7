-- Test rows of two nights that both have scored and both held out: what each said, by the labels of
-- tonight. Rows that the night before tuned on would favour it, so they are not among them; nor are
-- those that one of the nights holds twice.
-- Grain: one row per user, item and time of rating.
with said as (
    select
        row,
        logit,
        probability
    from scores
    where split = 'test' and model = $model
),

said_before as (
    select
        row,
        logit,
        probability
    from scores_before
    where split = 'test' and model = $model_before
),

once as (
    select
        row,
        user_id,
        item_id,
        rated_at,
        label
    from splits
    where split = 'test'
    qualify count(*) over (partition by user_id, item_id, rated_at) = 1
),

once_before as (
    select
        row,
        user_id,
        item_id,
        rated_at
    from splits_before
    where split = 'test'
    qualify count(*) over (partition by user_id, item_id, rated_at) = 1
)

select
    once.user_id,
    once.item_id,
    once.rated_at,
    once.label,
    said.logit,
    said.probability,
    said_before.logit as logit_before,
    said_before.probability as probability_before
from once
inner join said on once.row = said.row
inner join once_before
    on
        once.user_id = once_before.user_id
        and once.item_id = once_before.item_id
        and once.rated_at = once_before.rated_at
inner join said_before on once_before.row = said_before.row
order by once.user_id, once.item_id, once.rated_at
