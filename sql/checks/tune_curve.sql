-- Curves that cannot be: without a first row, running backwards, or with figures out of range.
-- Grain: one row per violation.
with in_order as (
    select
        *,
        lag(tokens) over (order by step) as tokens_before,
        lag(seconds) over (order by step) as seconds_before
    from tune_curve
),

judged as (
    select
        step,
        case
            when tokens_before is null and (step <> 0 or tokens <> 0)
                then 'does not begin before the first step'
            when tokens <= tokens_before then 'a step without tokens'
            when seconds < 0 or seconds < seconds_before then 'time runs backwards'
            when learning_rate < 0 then 'learning rate below zero'
            when train_loss < 0 then 'loss below zero'
            when step > 0 and train_loss is null then 'a step without a loss'
            when valid_auc not between 0 and 1 or valid_uauc not between 0 and 1
                then 'AUC is not between 0 and 1'
        end as violation
    from in_order
)

select
    step,
    violation
from judged
where violation is not null
order by step
