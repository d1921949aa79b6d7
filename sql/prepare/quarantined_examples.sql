-- The quarantine by reason, the most frequent first, each with its first row.
-- Grain: one row per kind (event or item) and reason.
select
    kind,
    reason,
    count(*)::bigint as n_rows,
    min_by(
        {
            'source_file': source_file,
            'line': line,
            'column': "column",
            'value': value,
            'raw': raw
        },
        (source_file, line, source_row)
    ) as example
from quarantined_events
group by kind, reason
order by kind asc, n_rows desc, reason asc
