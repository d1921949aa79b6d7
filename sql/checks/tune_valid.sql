-- Logits of valid rows that cannot be: of a row that is not a valid row.
-- Grain: one row per violation.
select
    tune_valid.split,
    tune_valid.row,
    'logit of no valid row' as violation
from tune_valid
left join splits
    on
        tune_valid.split = splits.split
        and tune_valid.row = splits.row
        and splits.split = 'valid'
where splits.row is null
order by tune_valid.split, tune_valid.row
