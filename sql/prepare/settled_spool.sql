-- A raw file's rows that this arrival takes: those of its days, and of earlier days those that
-- turned up only now. What turned up is known from the day of the arrival.
-- Grain: one row per row of the file.
select
    spooled.* replace (
        case when spooled.own_day <= $after::date then $until::date else spooled.own_day end
            as known_day,
        case
            when spooled.own_day <= $after::date and not $has_arrivals::boolean
                then $until::timestamp
            else spooled.ingested_at
        end as ingested_at
    )
from spooled
where
    spooled.own_day > $after::date
    or spooled.source_row in (select turned_up.source_row from turned_up)
order by spooled.source_row
