-- Rows of the day's partitions that are no events of the day: replaced by a later delivery, or of
-- an item that the catalogue does not hold.
-- Grain: one row per source_row.
with corrected as (
    select distinct corrects as source_row from event_rows
    where corrects is not null
)

select
    event_rows.source_row,
    case
        when corrected.source_row is not null then 'corrected by a later row'
        else 'unknown item'
    end as reason
from event_rows
left join corrected on event_rows.source_row = corrected.source_row
left join items on event_rows.item_id = items.item_id
where corrected.source_row is not null or items.item_id is null
order by event_rows.source_row
