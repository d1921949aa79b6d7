-- Withdrawn rows that cannot be: without a known reason, or of an item that the catalogue holds.
-- Grain: one row per violation.
with judged as (
    select
        withdrawn_events.source_row,
        case
            when withdrawn_events.reason not in ('corrected by a later row', 'unknown item')
                then 'unknown reason'
        end as violation
    from withdrawn_events
)

select
    source_row,
    violation
from judged
where violation is not null
order by source_row
