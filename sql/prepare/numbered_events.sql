-- Events with numbers for ids, for sources whose ids are names.
-- In no order: a view for the queries that label rows.
-- Grain: one row per event.
select
    user_numbers.number as user_id,
    item_numbers.number as item_id,
    named_events.rating,
    named_events.rated_at,
    named_events.ingested_at,
    named_events.source_row
from named_events
inner join user_numbers on named_events.user_id = user_numbers.user_id
inner join item_numbers on named_events.item_id = item_numbers.item_id
