-- What the night of `day` knew: delivered by its midnight, and rated before it.
-- A row that cannot be read and has no arrival time of its own counts as known.
-- Grain: one row per parsed row.
select
    source_file,
    line,
    raw,
    source_row,
    user_id,
    item_id,
    rating,
    rated_at,
    ingested_at,
    reason
from parsed_ratings
where
    coalesce(ingested_at <= $day::date, true)
    and (reason is not null or rated_at < $day::date)
order by source_row
