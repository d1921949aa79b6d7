-- Lines of the archive's movies.dat, parsed: item::title::genres. The title keeps its year.
-- Grain: one row per line; `item_id` or `title` is null where the line is not of that form.
with split_lines as (
    select
        line,
        raw,
        string_split(raw, '::') as fields
    from movie_lines
)

select
    line,
    raw,
    case
        when
            len(fields) = 3 and regexp_full_match(fields[1], '[0-9]{1,18}')
            then try_cast(fields[1] as bigint)
    end as item_id,
    case when len(fields) = 3 then nullif(trim(fields[2]), '') end as title
from split_lines
order by line
