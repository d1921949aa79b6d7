-- Totals that cannot be: rows in are not events and quarantined rows, as the other tables count
-- them, or the newest event is older than the domain's contract allows.
-- Grain: one row per violation.
with judged as (
    select
        event_totals.as_of,
        case
            when event_totals.n_rows_in <> event_totals.n_events + event_totals.n_quarantined
                then 'rows in are not rows out'
            when event_totals.n_rows_in <> (select sum(arrivals.n_rows) from arrivals)
                then 'not the rows that arrived'
            when
                event_totals.n_events <> (select sum(event_parts.n_rows) from event_parts)
                - (select count(*) from withdrawn_events)
                then 'not the events of the partitions'
            when
                event_totals.n_quarantined <> (
                    select count(*) from quarantined_events
                    where quarantined_events.kind = 'event'
                )
                then 'not the rows of the quarantine'
            when event_totals.n_catalogue <> (select count(*) from items)
                then 'not the items of the catalogue'
            when event_totals.last_event >= event_totals.as_of then 'an event of the day or later'
            when
                event_totals.last_event
                < event_totals.as_of - domains.max_age_days * interval 1 day
                then 'the newest event is older than the contract allows'
        end as violation
    from event_totals
    cross join domains
)

select
    as_of,
    violation
from judged
where violation is not null
order by as_of
