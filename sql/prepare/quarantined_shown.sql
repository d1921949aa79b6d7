-- Rows of the quarantine that a person asked for; null parameters let all through.
-- Grain: one row per row of the quarantine, at most `n_shown`.
select
    kind,
    source_file,
    line,
    reason,
    "column",
    value,
    raw,
    known_day
from quarantined_events
where
    coalesce(reason = $of_reason::varchar, $of_reason::varchar is null)
    and coalesce(source_file = $of_file::varchar, $of_file::varchar is null)
    and coalesce("column" = $of_column::varchar, $of_column::varchar is null)
    and coalesce(value = $of_value::varchar, $of_value::varchar is null)
    and ($of_lines::bigint[] is null or list_contains($of_lines::bigint[], line))
qualify row_number() over (order by kind, source_file, line, source_row) <= $n_shown::bigint
order by kind, source_file, line, source_row
