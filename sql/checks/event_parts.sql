-- Partitions that cannot be: empty, of a day that is known before it ends, or of no file.
-- Grain: one row per violation.
with judged as (
    select
        event_day,
        known_day,
        case
            when n_rows < 1 then 'no rows'
            when known_day <= event_day then 'known before the day has ended'
            when not regexp_full_match(sha256, '[0-9a-f]{64}') then 'no sha256'
            when not contains(path, 'event_day=' || event_day) then 'of another day than its path'
            when count(*) over (partition by path) > 1 then 'one file twice'
        end as violation
    from event_parts
)

select
    event_day,
    known_day,
    violation
from judged
where violation is not null
order by event_day, known_day
