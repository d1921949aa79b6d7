-- Lengths of soft tokens that cannot be. How long they are beside text is told, not judged here.
-- Grain: one row per violation.
with judged as (
    select
        kind,
        case
            when kind not in ('user', 'item', 'warm') then 'no such kind'
            when n_tokens < 1 or d_llm < 1 then 'no tokens, or tokens without numbers'
            when n_rows < 0 then 'rows below zero'
            when (n_rows = 0) <> (mean_norm is null) or (n_rows = 0) <> (norm_ratio is null)
                then 'a length without rows, or rows without one'
            when mean_norm <= 0 or norm_ratio <= 0 then 'tokens without length'
        end as violation
    from token_norms
)

select
    kind,
    violation
from judged
where violation is not null
order by kind
