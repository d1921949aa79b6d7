-- Arrivals that cannot be: rows that came neither to the events nor to the quarantine; or a night
-- that brought far more or fewer rows than the last seven did, where the domain's contract says
-- how far. Rows of unknown items are among events and quarantine, because the catalogue of a later
-- night may know them.
-- Grain: one row per violation.
with judged as (
    select
        known_day,
        case
            when least(n_rows, n_events, n_late, n_corrections, n_quarantined, n_released) < 0
                then 'negative count'
            when n_rows + n_released > n_events + n_quarantined then 'rows that went nowhere'
            when n_events > n_rows + n_released then 'more events than rows'
            when n_late > n_events then 'more late events than events'
            when n_corrections > n_events then 'more corrections than events'
        end as violation
    from arrivals
),

last_seven as (
    select arrivals.n_rows
    from arrivals
    cross join event_totals
    where arrivals.known_day < event_totals.as_of and arrivals.known_day > '1970-01-01'::date
    order by arrivals.known_day desc
    limit 7
),

tonight as (
    select
        event_totals.as_of as known_day,
        coalesce(arrivals.n_rows, 0) as n_rows,
        (select median(last_seven.n_rows) from last_seven) as usual
    from event_totals
    left join arrivals on event_totals.as_of = arrivals.known_day
    where (select count(*) from last_seven) >= 3
)

select
    known_day,
    violation
from judged
where violation is not null
union all
select
    tonight.known_day,
    tonight.n_rows || ' rows came in, and ' || tonight.usual || ' is usual' as violation
from tonight
cross join domains
where abs(tonight.n_rows / tonight.usual - 1) > domains.max_row_change
order by known_day, violation
