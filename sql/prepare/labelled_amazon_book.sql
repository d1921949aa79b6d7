-- Events of 2017 as CoLLM builds Amazon-Book, labelled: users and items with more than 20 ratings
-- in that year, both counted once, before either is left out; label = 1 if the rating is 5. Train
-- is January to November; of December, in the order of time, half is valid, the later half test.
-- In no order: the rows stream to jobs/prepare/splitting/shuffle.py, which orders them.
-- Grain: one row per event of the window.
with counted as (
    select
        user_id,
        item_id,
        rating,
        rated_at,
        source_row,
        count(*) over (partition by user_id) as n_of_user,
        count(*) over (partition by item_id) as n_of_item
    from events
    where year(rated_at) = 2017
),

kept as (
    select
        user_id,
        item_id,
        rating,
        rated_at,
        source_row,
        month(rated_at) = 12 as is_december,
        row_number() over (
            partition by month(rated_at) = 12
            order by rated_at, source_row
        ) as place,
        count(*) over (partition by month(rated_at) = 12) as n_rows
    from counted
    where n_of_user > 20 and n_of_item > 20
)

select
    user_id,
    item_id,
    rated_at,
    source_row as turn,
    (rating >= $positive_rating::float)::tinyint as label,
    (
        case when not is_december then 1 when place <= n_rows // 2 then 2 else 0 end
    )::tinyint as split
from kept
