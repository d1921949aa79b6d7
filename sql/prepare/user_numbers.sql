-- Users of the events by number, for a job that works on numbers: places in the sorted list, good
-- for one run. `word` stands for the user in draws and is the same in every night.
-- Grain: one row per user_id.
with users as (
    select distinct user_id from events
)

select
    user_id,
    row_number() over (order by user_id) - 1 as number,
    (md5_number_lower(user_id::varchar) >> 1)::bigint as word
from users
order by user_id
