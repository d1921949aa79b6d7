-- Rows of events in the quarantine by reason, the most frequent first, each with its first row.
-- Grain: one row per reason.
select
    reason,
    count(*)::bigint as n_rows,
    min_by(
        struct_pack(source_file := source_file, line := line, raw := raw),
        (source_file, line, source_row)
    ) as first_row
from quarantined_events
where kind = 'event'
group by reason
order by n_rows desc, reason asc
