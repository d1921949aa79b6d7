-- Rows that an arrival put aside, for good or until their item is known.
-- Grain: one row per known_day and reason.
select
    known_day,
    reason,
    count(*)::bigint as n_rows
from rejected_rows
where kind = 'event'
group by known_day, reason
order by known_day, reason
