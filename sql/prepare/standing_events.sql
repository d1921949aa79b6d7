-- Events of earlier arrivals that no later one has corrected, as newly arrived rows meet them.
-- Every one of them was known before any row of the new arrival.
-- In no order: a step of a larger query, which sorts.
-- Grain: one row per user_id, item_id and rated_at.
select
    user_id,
    item_id,
    rated_at,
    rating,
    source_row,
    '0001-01-01'::date as known_day
from event_rows
where
    source_row not in (
        select corrected.corrects
        from event_rows as corrected
        where corrected.corrects is not null
    )
