-- Rows of a raw file as it is now, of the days in question, in the columns of `kept`.
-- In no order: a step of a larger query, which sorts.
-- Grain: one row per row of the file.
select
    spooled.own_day,
    spooled.source_row,
    spooled.user_id,
    spooled.item_id,
    spooled.rated_at,
    spooled.rating,
    spooled.reason,
    spooled.raw
from spooled
inner join days on spooled.own_day = days.own_day
