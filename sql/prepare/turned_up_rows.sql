-- Rows of a raw file that has changed, of days that were already taken: which of them are new, and
-- which earlier ones are gone. Rows are compared by what they say, not by their place.
-- `found` is the file as it is now, `kept` what earlier arrivals took of it.
-- Grain: one row per row that is in only one of the two; `is_new` says in which.
with numbered_found as (
    select
        own_day,
        source_row,
        user_id,
        item_id,
        rated_at,
        rating,
        reason,
        raw,
        row_number() over (
            partition by own_day, user_id, item_id, rated_at, rating, reason, raw
            order by source_row
        ) as place
    from found
),

numbered_kept as (
    select
        own_day,
        source_row,
        user_id,
        item_id,
        rated_at,
        rating,
        reason,
        raw,
        is_corrected,
        row_number() over (
            partition by own_day, user_id, item_id, rated_at, rating, reason, raw
            order by source_row
        ) as place
    from kept
),

compared as (
    select
        coalesce(numbered_found.own_day, numbered_kept.own_day) as own_day,
        coalesce(numbered_found.source_row, numbered_kept.source_row) as source_row,
        coalesce(numbered_found.user_id, numbered_kept.user_id) as user_id,
        coalesce(numbered_found.item_id, numbered_kept.item_id) as item_id,
        coalesce(numbered_found.rated_at, numbered_kept.rated_at) as rated_at,
        coalesce(numbered_found.reason, numbered_kept.reason) as reason,
        numbered_found.source_row is not null as is_new,
        numbered_kept.source_row is not null as is_kept,
        coalesce(numbered_kept.is_corrected, false) as is_corrected
    from numbered_found
    full outer join numbered_kept
        on
            numbered_found.own_day = numbered_kept.own_day
            and numbered_found.place = numbered_kept.place
            and numbered_found.user_id is not distinct from numbered_kept.user_id
            and numbered_found.item_id is not distinct from numbered_kept.item_id
            and numbered_found.rated_at is not distinct from numbered_kept.rated_at
            and numbered_found.rating is not distinct from numbered_kept.rating
            and numbered_found.reason is not distinct from numbered_kept.reason
            and numbered_found.raw is not distinct from numbered_kept.raw
),

replaced as (
    select distinct
        user_id,
        item_id,
        rated_at
    from compared
    where is_new and not is_kept and reason is null
)

select
    compared.own_day,
    compared.source_row,
    compared.is_new
from compared
left join replaced
    on
        compared.reason is null
        and compared.user_id = replaced.user_id
        and compared.item_id = replaced.item_id
        and compared.rated_at = replaced.rated_at
where
    compared.is_new <> compared.is_kept
    -- A row whose rating was changed in place is replaced by the new one: a correction. One that
    -- was corrected before may go.
    and (compared.is_new or (replaced.user_id is null and not compared.is_corrected))
order by compared.own_day, compared.source_row
