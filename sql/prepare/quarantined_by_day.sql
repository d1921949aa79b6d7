-- The quarantine by reason and the day that learned of the rows; null parameters let all through.
-- Grain: one row per kind, known_day and reason.
select
    kind,
    known_day,
    reason,
    count(*)::bigint as n_rows
from quarantined_events
where
    coalesce(reason = $of_reason::varchar, $of_reason::varchar is null)
    and coalesce(source_file = $of_file::varchar, $of_file::varchar is null)
    and coalesce("column" = $of_column::varchar, $of_column::varchar is null)
    and coalesce(value = $of_value::varchar, $of_value::varchar is null)
    and ($of_lines::bigint[] is null or list_contains($of_lines::bigint[], line))
group by kind, known_day, reason
order by kind, known_day, reason
