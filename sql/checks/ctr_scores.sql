-- Scores that cannot be: missing for a valid or test row, of no row, of a row that reads otherwise,
-- from more than one version, or no probability.
-- Grain: one row per violation.
with rows_to_score as (
    select
        split,
        row,
        user_id,
        item_id,
        label,
        is_warm
    from splits
    where split in ('valid', 'test')
),

judged as (
    select
        coalesce(rows_to_score.split, ctr_scores.split) as split,
        coalesce(rows_to_score.row, ctr_scores.row) as row,
        case
            when rows_to_score.split is null then 'score of no row'
            when ctr_scores.split is null then 'row without a score'
            when
                ctr_scores.user_id <> rows_to_score.user_id
                or ctr_scores.item_id <> rows_to_score.item_id
                or ctr_scores.label <> rows_to_score.label
                or ctr_scores.is_warm <> rows_to_score.is_warm
                then 'user, item, label or warm flag is not that of the row'
            when
                ctr_scores.probability <= 0 or ctr_scores.probability >= 1
                then 'probability is not between 0 and 1'
            when
                (ctr_scores.logit > 0) <> (ctr_scores.probability > 0.5)
                and abs(ctr_scores.logit) > 1e-6
                then 'logit and probability disagree'
            when ctr_scores.version < 1 then 'version is not positive'
            when
                min(ctr_scores.version) over () <> max(ctr_scores.version) over ()
                then 'scores from more than one version'
        end as violation
    from rows_to_score
    full outer join ctr_scores
        on rows_to_score.split = ctr_scores.split and rows_to_score.row = ctr_scores.row
)

select
    split,
    row,
    violation
from judged
where violation is not null
order by split, row
