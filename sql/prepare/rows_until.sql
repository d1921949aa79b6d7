-- Rows of an arrival's file that became known by a day: a night before the arrival's last day, or
-- the days of an arrival that a restated one left standing.
-- In no order: as they lie; the query that reads them sorts.
-- Grain: one row per row of `given`.
select given.* from given
where given.known_day <= $until::date
