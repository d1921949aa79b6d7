-- Lines of the daily rating deliveries, parsed: user_id,item_id,rating,rated_at (UTC).
-- A delivery is known from the midnight that ends its day, `ingested_at`.
-- Grain: one row per line; `reason` is null where the line could be read.
with split_lines as (
    select
        source_file,
        line,
        raw,
        source_row,
        ingested_at,
        string_split(raw, ',') as fields
    from rating_lines
),

typed as (
    select
        source_file,
        line,
        raw,
        source_row,
        ingested_at,
        len(fields) as n_fields,
        len(list_filter(fields, lambda field: trim(field) = '')) as n_missing,
        -- Digits alone: a bare cast also takes 1e3, 1_000 and 1.5.
        case
            when regexp_full_match(fields[1], '[0-9]{1,18}') then try_cast(fields[1] as bigint)
        end as user_id,
        case
            when regexp_full_match(fields[2], '[0-9]{1,18}') then try_cast(fields[2] as bigint)
        end as item_id,
        case
            when
                regexp_full_match(fields[3], '-?[0-9]{1,9}([.][0-9]+)?')
                then try_cast(fields[3] as float)
        end as rating,
        case
            when
                regexp_full_match(
                    fields[4], '[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}'
                )
                then try_cast(fields[4] as timestamp)
        end as rated_at
    from split_lines
)

select
    source_file,
    line,
    raw,
    source_row,
    user_id,
    item_id,
    rating,
    rated_at,
    ingested_at,
    case
        -- What the reader puts in the place of bytes that are no UTF-8.
        when contains(raw, chr(65533)) then 'invalid UTF-8'
        when n_fields <> 4 then 'wrong number of fields'
        when n_missing > 0 then 'missing field'
        when user_id is null then 'unparsable user'
        when item_id is null then 'unparsable item'
        when rating is null then 'unparsable rating'
        when rated_at is null then 'unparsable timestamp'
        when rating < 1 or rating > 5 then 'rating out of range'
        when rated_at >= ingested_at then 'event after its delivery'
    end as reason
from typed
order by source_row
