-- Features of items that cannot be: missing for an item of the catalogue under one of the two
-- protocols, of no item, out of range, or with counts that the splits do not bear out.
-- Grain: one row per violation.
with counted as (
    select
        items.item_id,
        count(splits.item_id) as n_rows,
        count(*) filter (where splits.label = 1) as n_positives,
        count(*) filter (where splits.split = 'train') as n_train_rows,
        count(*) filter (where splits.split = 'train' and splits.label = 1) as n_train_positives
    from items
    left join splits on items.item_id = splits.item_id
    group by items.item_id
),

expected as (
    select
        item_id,
        'nightly' as protocol,
        n_rows,
        n_positives
    from counted
    union all
    select
        item_id,
        'paper' as protocol,
        n_train_rows as n_rows,
        n_train_positives as n_positives
    from counted
),

judged as (
    select
        coalesce(expected.protocol, item_features.protocol) as protocol,
        coalesce(expected.item_id, item_features.item_id) as item_id,
        case
            when item_features.item_id is null then 'no features for this item'
            when expected.item_id is null then 'features of an unknown item or protocol'
            when item_features.mean not between 0 and 1 then 'mean is not between 0 and 1'
            when
                item_features.popularity not between 0 and 1
                then 'popularity is not between 0 and 1'
            when
                item_features.n_positives <> expected.n_positives
                then 'not as many positives as in the splits'
            when
                item_features.n_events < item_features.n_positives
                or item_features.n_events > expected.n_rows
                then 'fewer events than positives, or more than rows'
            when
                (item_features.n_events = 0) <> (item_features.first_at is null)
                or (item_features.n_events = 0) <> (item_features.last_at is null)
                then 'times without events, or events without times'
            when item_features.first_at > item_features.last_at then 'last event before the first'
        end as violation
    from expected
    full outer join item_features
        on
            expected.item_id = item_features.item_id
            and expected.protocol = item_features.protocol
)

select
    protocol,
    item_id,
    violation
from judged
where violation is not null
order by protocol, item_id
