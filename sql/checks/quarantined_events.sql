-- Quarantined rows that nobody could find or release again: without a place or a reason.
-- Grain: one row per violation.
with judged as (
    select
        source_file,
        line,
        case
            when trim(source_file) = '' then 'no source file'
            when line < 1 then 'line before the first'
            when trim(reason) = '' then 'no reason'
        end as violation
    from quarantined_events
)

select
    source_file,
    line,
    violation
from judged
where violation is not null
order by source_file, line
