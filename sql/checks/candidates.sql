-- Candidates that cannot be: of more than one version, rows of splits that read otherwise there,
-- splits of which rows are missing, pairs that an index proposed twice or with a label, or for
-- users without a history.
-- Grain: one row per violation.
with rows_to_score as (
    select
        split,
        row,
        user_id,
        item_id,
        label,
        rated_at,
        history_end,
        is_warm
    from splits
    where split in (select candidates.split from candidates)
),

judged as (
    select
        coalesce(rows_to_score.split, candidates.split) as split,
        coalesce(rows_to_score.row, candidates.row) as row,
        case
            when candidates.split is null then 'row of the split is missing'
            when candidates.version < 1 then 'version is not positive'
            when
                min(candidates.version) over () <> max(candidates.version) over ()
                then 'candidates of more than one version'
            when
                candidates.split <> 'top_k' and rows_to_score.split is null
                then 'candidate is no row of the split'
            when
                candidates.split <> 'top_k'
                and (
                    candidates.user_id <> rows_to_score.user_id
                    or candidates.item_id <> rows_to_score.item_id
                    or (candidates.label is distinct from rows_to_score.label)
                    or candidates.rated_at <> rows_to_score.rated_at
                    or candidates.history_end <> rows_to_score.history_end
                    or candidates.is_warm <> rows_to_score.is_warm
                )
                then 'candidate does not read as its row'
            when candidates.split <> 'top_k' then null
            when candidates.label is not null then 'a proposed candidate has a label'
            when
                count(*) over (
                    partition by candidates.split, candidates.user_id, candidates.item_id
                ) > 1
                then 'user and item were proposed twice'
            when histories.user_id is null then 'user has no history'
            when
                candidates.history_end <> len(histories.item_ids)
                then 'history does not end with what the day knows'
            when items.item_id is null then 'item is not in the catalogue'
        end as violation
    from rows_to_score
    full outer join candidates
        on rows_to_score.split = candidates.split and rows_to_score.row = candidates.row
    left join histories on candidates.user_id = histories.user_id
    left join items on candidates.item_id = items.item_id
)

select
    split,
    row,
    violation
from judged
where violation is not null
order by split, row
