-- The events of a day: rows of the partitions that it knows, without those that are withdrawn.
-- In no order: whoever reads them sorts them as they need it.
-- Grain: one row per user_id, item_id and rated_at.
select
    user_id,
    item_id,
    rating,
    rated_at,
    ingested_at,
    source_row
from event_rows
where source_row not in (select withdrawn_events.source_row from withdrawn_events)
