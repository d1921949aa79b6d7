-- Logits of the control that cannot be: of no row, missing for a row, not finite, or frozen where
-- they should not be (train) or not where they should be.
-- Grain: one row per violation.
with judged as (
    select
        coalesce(splits.split, control_logits.split) as split,
        coalesce(splits.row, control_logits.row) as row,
        case
            when splits.split is null then 'logit of no row'
            when control_logits.split is null then 'row without a logit'
            when
                not isfinite(control_logits.logit)
                or not isfinite(coalesce(control_logits.frozen_logit, 0))
                then 'logit is not finite'
            when
                (control_logits.frozen_logit is null) <> (splits.split = 'train')
                then 'frozen logits are of valid and test rows, all of them'
        end as violation
    from splits
    full outer join control_logits
        on splits.split = control_logits.split and splits.row = control_logits.row
)

select
    split,
    row,
    violation
from judged
where violation is not null
order by split, row
