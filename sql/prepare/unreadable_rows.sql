-- Rows of spooled files that could not be read or are no events, with the reason.
-- In no order: a step of a larger query, which sorts.
-- Grain: one row per row of a raw file.
select spooled.* from spooled
where spooled.reason is not null
