-- Scores of the backbone that cannot be: of no row, of a row that reads otherwise, missing for rows
-- of a split that was scored, or no probability.
-- Grain: one row per violation.
with rows_to_score as (
    select
        split,
        row,
        user_id,
        item_id,
        label
    from splits
    where split in (select llm_scores.split from llm_scores)
),

judged as (
    select
        coalesce(rows_to_score.split, llm_scores.split) as split,
        coalesce(rows_to_score.row, llm_scores.row) as row,
        case
            when rows_to_score.split is null then 'score of no row'
            when llm_scores.split is null then 'row without a score'
            when
                llm_scores.user_id <> rows_to_score.user_id
                or llm_scores.item_id <> rows_to_score.item_id
                or llm_scores.label <> rows_to_score.label
                then 'user, item or label is not that of the row'
            when
                llm_scores.probability <= 0 or llm_scores.probability >= 1
                then 'probability is not between 0 and 1'
            when
                (llm_scores.logit > 0) <> (llm_scores.probability > 0.5)
                and abs(llm_scores.logit) > 1e-6
                then 'logit and probability disagree'
        end as violation
    from rows_to_score
    full outer join llm_scores
        on rows_to_score.split = llm_scores.split and rows_to_score.row = llm_scores.row
)

select
    split,
    row,
    violation
from judged
where violation is not null
order by split, row
