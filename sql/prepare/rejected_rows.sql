-- All rows of an arrival that the quarantine may have to show: those that could not be read, those
-- that were judged out, and those of unknown items. `unreadable` and `readable` are the arrival's
-- rows, `set_aside` says which of the readable ones and why, `raws` how they came.
-- Grain: one row per row of a source file.
select
    'event' as kind,
    unreadable.known_day,
    unreadable.own_day,
    unreadable.source_row,
    unreadable.source_file::varchar as source_file,
    unreadable.line,
    unreadable.reason,
    unreadable.column,
    unreadable.value,
    unreadable.raw,
    unreadable.user_id,
    unreadable.item_id,
    unreadable.rated_at,
    unreadable.rating
from unreadable
union all
select
    'event' as kind,
    readable.known_day,
    readable.own_day,
    readable.source_row,
    readable.source_file::varchar as source_file,
    readable.line,
    set_aside.reason,
    null as "column",
    null as value,
    raws.raw,
    readable.user_id,
    readable.item_id,
    readable.rated_at,
    readable.rating
from set_aside
inner join readable on set_aside.source_row = readable.source_row
inner join raws on set_aside.source_row = raws.source_row
order by source_row, reason
