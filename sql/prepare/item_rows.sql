-- What an arrival says of items: in how many good rows under which title, when last, and the first
-- row of the source in which the item appears at all, good or bad.
-- Grain: one row per known_day, item_id and title.
select
    known_day,
    item_id,
    title,
    count(*) filter (where reason is null)::bigint as n_rows,
    max(rated_at) filter (where reason is null) as last_at,
    min(source_row) as first_row
from arrived_rows
where item_id is not null
group by known_day, item_id, title
order by known_day, item_id, title
