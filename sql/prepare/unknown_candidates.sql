-- Newly arrived rows whose item the catalogue did not hold when they became known. They are events
-- for the nights whose catalogue does; until then the quarantine shows them as they came.
-- Grain: one row per row of `arrived_rows`.
with first_known as (
    select
        item_id,
        min(known_day) as known_day
    from catalogue_rows
    group by item_id
)

select
    arrived_rows.source_row,
    arrived_rows.known_day,
    'unknown item' as reason
from arrived_rows
left join first_known on arrived_rows.item_id = first_known.item_id
where
    (first_known.known_day is null or first_known.known_day > arrived_rows.known_day)
    and arrived_rows.source_row not in (select judged_rows.source_row from judged_rows)
order by arrived_rows.source_row
