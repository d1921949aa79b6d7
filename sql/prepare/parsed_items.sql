-- Rows of a catalogue with both columns read, good or bad: the first reason that applies.
-- `role` says which column is to blame: item_id or title; null for neither.
-- Grain: one row per row of the source; `reason` is null where it is an item with a title.
with read_columns as (
    select
        place,
        broken,
        coalesce(item_text, '') = '' and item_number is null as has_no_item,
        case
            when $item_is_text then null
            when item_number is not null then item_number
            when regexp_full_match(item_text, '-?[0-9]{1,18}') then try_cast(item_text as bigint)
        end as item_number,
        case
            when
                $item_is_text
                and length(item_text) between 1 and 255
                and not regexp_matches(item_text, '[[:cntrl:]\x{FFFD}]')
                then item_text
        end as item_text,
        title
    from source_fields
),

judged as (
    select
        place,
        item_number,
        item_text,
        title,
        case
            when broken is not null then (broken, null)
            when has_no_item then ('missing item', 'item_id')
            when item_number is null and item_text is null then ('unparsable item', 'item_id')
            when title is null then ('missing title', 'title')
        end as verdict
    from read_columns
)

select
    item_number,
    item_text,
    title,
    verdict[1] as reason,
    verdict[2] as role
from judged
order by place
