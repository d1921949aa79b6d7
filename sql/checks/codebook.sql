-- Codes of a codebook that cannot be: gaps in the numbers, counts that the items do not bear out,
-- or titles of a code without items.
-- Grain: one row per violation.
with members as (
    select
        unnest(codes) as code,
        generate_subscripts(codes, 1) - 1 as level
    from item_codes
),

counted as (
    select
        level,
        code,
        count(*) as n_items
    from members
    group by
        level,
        code
),

shape as (
    select
        max(level) + 1 as n_levels,
        max(code) + 1 as n_codes,
        count(*) as n_rows
    from codebook
),

judged as (
    select
        codebook.level,
        codebook.code,
        case
            when
                codebook.level < 0
                or codebook.code < 0
                or shape.n_rows <> shape.n_levels * shape.n_codes
                then 'levels and codes are not numbered without a gap'
            when
                codebook.n_items <> coalesce(counted.n_items, 0)
                then 'not as many items as have the code'
            when
                len(codebook.top_titles) > codebook.n_items
                then 'more titles than items'
        end as violation
    from codebook
    cross join shape
    left join counted
        on
            codebook.level = counted.level
            and codebook.code = counted.code
)

select
    level,
    code,
    violation
from judged
where violation is not null
order by level, code
