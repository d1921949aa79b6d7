-- Newly arrived rows that could be read, of the event days of one task.
-- In no order: a step of a larger query, which sorts.
-- Grain: one row per row of the source.
select
    arrived_rows.event_day,
    arrived_rows.known_day,
    arrived_rows.user_id,
    arrived_rows.item_id,
    arrived_rows.rating,
    arrived_rows.rated_at,
    arrived_rows.ingested_at,
    arrived_rows.source_row
from arrived_rows
cross join days
where
    arrived_rows.reason is null
    and arrived_rows.event_day between days.first and days.last
