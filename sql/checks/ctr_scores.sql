-- Scores that cannot be: missing for a candidate and a model, of no candidate, of a candidate that
-- reads otherwise, of another version than it, no probability, or a probability that falls where
-- the model's logit rises.
-- Grain: one row per violation.
with models as (
    select distinct ctr_scores.model
    from ctr_scores
),

to_score as (
    select
        models.model,
        candidates.split,
        candidates.row,
        candidates.user_id,
        candidates.item_id,
        candidates.label,
        candidates.is_warm,
        candidates.version
    from candidates
    left join models on true
),

ranked as (
    select
        *,
        lag(probability) over (partition by model order by logit, probability) as probability_below
    from ctr_scores
),

judged as (
    select
        coalesce(to_score.split, ranked.split) as split,
        coalesce(to_score.row, ranked.row) as row,
        coalesce(to_score.model, ranked.model) as model,
        case
            when to_score.split is null then 'score of no candidate'
            when ranked.split is null then 'candidate without a score'
            when
                ranked.user_id <> to_score.user_id
                or ranked.item_id <> to_score.item_id
                or (ranked.label is distinct from to_score.label)
                or ranked.is_warm <> to_score.is_warm
                then 'user, item, label or warm flag is not that of the candidate'
            when
                ranked.probability <= 0 or ranked.probability >= 1
                then 'probability is not between 0 and 1'
            when
                ranked.probability < ranked.probability_below - 1e-6
                then 'probability falls where the logit rises'
            when ranked.version <> to_score.version then 'version is not that of the candidate'
        end as violation
    from to_score
    full outer join ranked
        on
            to_score.split = ranked.split
            and to_score.row = ranked.row
            and to_score.model = ranked.model
)

select
    split,
    row,
    model,
    violation
from judged
where violation is not null
order by split, row, model
