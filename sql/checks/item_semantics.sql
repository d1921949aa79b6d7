-- Semantics that cannot be: missing for a text, of no text, without direction or a key.
-- Vectors are cast to plain lists, since their length is not known here.
-- Grain: one row per violation.
with measured as (
    select
        item_id,
        content_key,
        list_inner_product(raw::float[], raw::float[]) as raw_norm2,
        list_inner_product(vector::float[], vector::float[]) as norm2
    from item_semantics
),

judged as (
    select
        coalesce(item_texts.item_id, measured.item_id) as item_id,
        case
            when measured.item_id is null then 'no semantics for this text'
            when item_texts.item_id is null then 'semantics of an unknown item'
            when not regexp_full_match(measured.content_key, '[0-9a-f]{64}') then 'key is no sha256'
            when measured.raw_norm2 = 0 then 'raw is zero'
            when abs(sqrt(measured.norm2) - 1) > 1e-3 then 'vector is not of unit norm'
        end as violation
    from item_texts
    full outer join measured on item_texts.item_id = measured.item_id
)

select
    item_id,
    violation
from judged
where violation is not null
order by item_id
