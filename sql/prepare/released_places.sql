-- Quarantined rows that are to be let back in, as they came, among those of earlier arrivals and
-- those of this one.
-- Grain: one row per source_file and line of `wanted` that is there.
with quarantined as (
    select
        source_file,
        line,
        source_row,
        raw
    from rejected_rows
    where kind = 'event'
    union all
    select
        spooled.source_file::varchar as source_file,
        spooled.line,
        spooled.source_row,
        spooled.raw
    from spooled
    where spooled.reason is not null
)

select
    wanted.source_file,
    wanted.line,
    any_value(quarantined.source_row) as source_row,
    any_value(quarantined.raw) as raw
from wanted
inner join quarantined
    on wanted.source_file = quarantined.source_file and wanted.line = quarantined.line
group by wanted.source_file, wanted.line
order by wanted.source_file, wanted.line
