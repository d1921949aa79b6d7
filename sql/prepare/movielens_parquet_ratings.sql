-- Rows of a Parquet copy of the archive's ratings, in the form of `movielens_ratings`.
-- `raw` is the line as the archive has it; `line` is its place in the archive's ratings.dat.
-- Grain: one row per row of the copy; `reason` is null where it is complete and in range.
select
    $source_file::varchar as source_file,
    file_row::bigint as line,
    concat_ws('::', user_id, item_id, rating, timestamp) as raw,
    file_row::bigint as source_row,
    user_id::bigint as user_id,
    item_id::bigint as item_id,
    rating::float as rating,
    make_timestamp(1000000 * timestamp::bigint) as rated_at,
    make_timestamp(1000000 * timestamp::bigint) as ingested_at,
    case
        when
            user_id is null or item_id is null or rating is null or timestamp is null
            then 'missing field'
        when rating < 1 or rating > 5 then 'rating out of range'
    end as reason
from ratings
order by source_row
