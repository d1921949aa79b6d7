-- Labels of vocabularies that cannot be: gaps in the numbers, a word twice, without direction,
-- counts that the items do not bear out, or titles of a label without items.
-- Grain: one row per violation.
with members as (
    select
        unnest(codes) as code,
        generate_subscripts(codes, 1) - 1 as level
    from item_labels
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
    from label_codebook
),

twice as (
    select
        level,
        label
    from label_codebook
    group by
        level,
        label
    having count(*) > 1
),

judged as (
    select
        label_codebook.level,
        label_codebook.code,
        case
            when
                label_codebook.level < 0
                or label_codebook.code < 0
                or shape.n_rows <> shape.n_levels * shape.n_codes
                then 'levels and labels are not numbered without a gap'
            when
                label_codebook.n_items <> coalesce(counted.n_items, 0)
                then 'not as many items as have the label'
            when
                twice.label is not null
                then 'a word twice in its vocabulary'
            when
                abs(
                    list_inner_product(
                        label_codebook.lifted::float[], label_codebook.lifted::float[]
                    ) - 1
                ) > 1e-3
                then 'lifted is not of unit norm'
            when
                len(label_codebook.top_titles) > label_codebook.n_items
                then 'more titles than items'
        end as violation
    from label_codebook
    cross join shape
    left join counted
        on
            label_codebook.level = counted.level
            and label_codebook.code = counted.code
    left join twice
        on
            label_codebook.level = twice.level
            and label_codebook.label = twice.label
)

select
    level,
    code,
    violation
from judged
where violation is not null
order by level, code
