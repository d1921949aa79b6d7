-- Rows of the source that are no events of the day, with the reason: those that never could be,
-- unless they were let back in by now, and those that are withdrawn today.
-- `raw` is the row as it came; of a row that was an event once, what was read of it.
-- Grain: one row per row of a source file; of a catalogue that was read again, its last version.
with withdrawn_rows as (
    select
        'event' as kind,
        files.source_file,
        event_rows.source_row & ((1::bigint << 40) - 1) as line,
        withdrawn_events.reason,
        null::varchar as "column",
        null::varchar as value,
        coalesce(
            rejected_rows.raw,
            'user_id ' || event_rows.user_id || ', item_id ' || event_rows.item_id
            || ', rating ' || event_rows.rating || ', rated_at ' || event_rows.rated_at
        ) as raw,
        rejected_rows.known_day,
        event_rows.source_row
    from withdrawn_events
    inner join event_rows on withdrawn_events.source_row = event_rows.source_row
    inner join files on event_rows.source_row >> 40 = files.ordinal
    left join rejected_rows
        on
            withdrawn_events.source_row = rejected_rows.source_row
            and withdrawn_events.reason = rejected_rows.reason
            and rejected_rows.kind = 'event'
),

put_aside as (
    select
        rejected_rows.kind,
        rejected_rows.source_file,
        rejected_rows.line,
        rejected_rows.reason,
        rejected_rows.column,
        rejected_rows.value,
        rejected_rows.raw,
        rejected_rows.known_day,
        rejected_rows.source_row
    from rejected_rows
    left join released
        on
            rejected_rows.kind = 'event'
            and rejected_rows.source_row = released.source_row
            and rejected_rows.known_day < released.known_day
    where
        released.source_row is null
        and (rejected_rows.kind = 'item' or rejected_rows.reason <> 'unknown item')
)

select
    kind,
    source_file,
    line,
    reason,
    "column",
    value,
    raw,
    known_day,
    source_row
from withdrawn_rows
union all
select
    kind,
    source_file,
    line,
    reason,
    "column",
    value,
    raw,
    known_day,
    source_row
from put_aside
order by kind, source_file, line, source_row
