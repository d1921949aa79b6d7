-- Newly arrived rows without a title, where titles come from events: their item is known only once
-- another row names it. Until then the quarantine shows them as they came.
-- Grain: one row per row of `arrived_rows`.
select
    source_row,
    known_day,
    'unknown item' as reason
from arrived_rows
where
    title is null
    and source_row not in (select judged_rows.source_row from judged_rows)
order by source_row
