-- Why a known row is kept out of the events; the first reason that applies.
-- Of several rows with one user, item and second, the first in the source stands.
-- Grain: one row per rejected row, by its place in the source.
with judged as (
    select
        known_ratings.source_row,
        known_ratings.reason as parse_reason,
        catalogue.item_id is null as is_unknown,
        known_ratings.rating,
        first_value(known_ratings.source_row) over same_moment as first_source_row,
        first_value(known_ratings.rating) over same_moment as first_rating
    from known_ratings
    left join catalogue on known_ratings.item_id = catalogue.item_id
    window
        same_moment as (
            partition by
                known_ratings.reason is null and catalogue.item_id is not null,
                known_ratings.user_id,
                known_ratings.item_id,
                known_ratings.rated_at
            order by known_ratings.source_row
        )
)

select
    source_row,
    case
        when parse_reason is not null then parse_reason
        when is_unknown then 'unknown item'
        when rating = first_rating then 'duplicate'
        else 'conflicting duplicate'
    end as reason
from judged
where parse_reason is not null or is_unknown or source_row <> first_source_row
order by source_row
