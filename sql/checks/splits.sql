-- Rows of a split that cannot be: misnumbered, out of order, not the user's events, a history that
-- reaches past its list, misses a positive or shows the row itself or a later one, a warm flag that
-- train does not bear out, a sampled negative that could have been known to be none.
-- One pass in the order of the file: lag and running sums over no partition need no sort, so a
-- hundred million rows cost no more memory than their users do. Events are compared by a sum of
-- hashes for each user; users with both signs of an item are looked for among 20 M rows at most.
-- Grain: one row per violation.
with terms as (
    select
        split_protocol,
        positive_rating,
        negatives_per_positive,
        feedback = 'implicit' as is_implicit,
        split_protocol in ('rolling', 'leave-one-out') as is_strict
    from domains
),

neighbours as (
    select
        splits.split,
        splits.row,
        splits.user_id,
        splits.item_id,
        splits.label,
        splits.rated_at,
        splits.history_end,
        splits.is_warm,
        lag(splits.split) over () as split_before,
        lag(splits.row) over () as row_before,
        lag(splits.user_id) over () as user_before,
        lag(splits.rated_at) over () as rated_before,
        count(case when splits.label = 1 then 1 end) over up_to_row as n_until
    from splits
    window
        -- An order would make it a sort; the linter knows no frame without one.
        up_to_row as (rows between unbounded preceding and current row) -- noqa: PRS
),

moments as (
    select
        neighbours.*,
        neighbours.n_until - (neighbours.label = 1)::integer as n_before,
        coalesce(neighbours.split <> neighbours.split_before, true) as is_other_split,
        coalesce(
            neighbours.split <> neighbours.split_before
            or neighbours.user_id <> neighbours.user_before,
            true
        ) as is_start,
        coalesce(
            neighbours.split <> neighbours.split_before
            or neighbours.user_id <> neighbours.user_before
            or neighbours.rated_at <> neighbours.rated_before,
            true
        ) as is_moment
    from neighbours
),

marked as (
    select
        moments.*,
        max(case when moments.is_start then moments.n_before end) over up_to_row as n_at_start,
        max(case when moments.is_moment then moments.n_before end) over up_to_row as n_at_moment
    from moments
    window
        up_to_row as (rows between unbounded preceding and current row) -- noqa: PRS
),

first_seen as (
    select
        events.item_id,
        min(events.rated_at) as first_at
    from events
    cross join terms
    where terms.is_implicit
    group by events.item_id
),

train_items as (
    select distinct item_id from splits
    where split = 'train'
),

judged_rows as (
    select
        marked.split,
        marked.user_id,
        marked.row,
        marked.rated_at,
        marked.label,
        marked.n_at_start,
        marked.n_at_moment,
        marked.is_start,
        marked.is_warm,
        marked.history_end,
        marked.item_id in (select train_items.item_id from train_items) as has_train_item,
        -- What the row may see of its own split, and so how many it saw of the splits before.
        marked.history_end - (
            case when terms.is_strict then marked.n_at_moment else marked.n_before end
            - marked.n_at_start
        ) as n_carried,
        marked.row <> case when marked.is_other_split then 0 else marked.row_before + 1 end
            as is_misnumbered,
        not marked.is_start and marked.rated_at < marked.rated_before as is_out_of_order,
        terms.is_implicit and marked.label = 0 and marked.is_moment as is_unpaired,
        terms.is_implicit and marked.label = 0 and (
            first_seen.first_at is null or first_seen.first_at > marked.rated_at
        ) as is_unseen
    from marked
    cross join terms
    left join first_seen on marked.item_id = first_seen.item_id
),

by_user as (
    select
        split,
        user_id,
        min(row) as row,
        min(rated_at) as first_at,
        max(rated_at) as last_at,
        count(*) as n_rows,
        count(*) filter (where label = 1) as n_positives,
        count(*) filter (where label = 1) - max(n_at_moment) + min(n_at_start) as n_at_last,
        count(*) filter (where label not in (0, 1)) as n_mislabelled,
        count(*) filter (where is_start) as n_starts,
        count(*) filter (where is_warm) as n_warm,
        count(*) filter (where is_warm <> has_train_item) as n_warm_apart,
        min(history_end) as first_end,
        max(history_end) as last_end,
        min(n_carried) as least_carried,
        max(n_carried) as most_carried,
        bool_or(is_misnumbered) as is_misnumbered,
        bool_or(is_out_of_order) as is_out_of_order,
        bool_or(is_unpaired) as is_unpaired,
        bool_or(is_unseen) as is_unseen
    from judged_rows
    group by split, user_id
),

-- What a user's train and valid hand on to the splits after them.
totals as (
    select
        user_id,
        bool_or(split = 'train') as is_train_user,
        sum(n_rows)::bigint as n_rows,
        sum(n_positives)::bigint as n_positives,
        sum(case when split = 'train' then n_positives else 0 end)::bigint as n_train,
        sum(case when split = 'valid' then n_positives else 0 end)::bigint as n_valid,
        max(case when split = 'train' then last_at end) as train_at,
        max(case when split = 'valid' then last_at end) as valid_at,
        sum(case when split = 'train' then n_at_last else 0 end)::bigint as n_train_last,
        sum(case when split = 'valid' then n_at_last else 0 end)::bigint as n_valid_last
    from by_user
    group by user_id
),

-- A moment can lie in two splits when each user's last positives are left out: then the first
-- moment of the later split does not see the positives of the earlier one.
expected as (
    select
        by_user.*,
        totals.is_train_user,
        case by_user.split
            when 'train' then 0
            when 'valid' then totals.n_train
            else totals.n_train + totals.n_valid
        end as n_expected,
        case
            when by_user.split <> 'train' and terms.is_strict and totals.train_at = by_user.first_at
                then totals.n_train_last
            else 0
        end
        + case
            when by_user.split = 'test' and terms.is_strict and totals.valid_at = by_user.first_at
                then totals.n_valid_last
            else 0
        end as n_tied
    from by_user
    inner join totals on by_user.user_id = totals.user_id
    cross join terms
),

judged as (
    select
        expected.split,
        expected.row,
        expected.user_id,
        case
            when expected.split not in ('train', 'valid', 'test') then 'unknown split'
            when expected.n_mislabelled > 0 then 'label is neither 0 nor 1'
            when expected.n_starts > 1 then 'rows of a user are apart'
            when expected.is_misnumbered then 'row numbers have a gap'
            when expected.is_out_of_order then 'rows are not in the order of time'
            when expected.is_unpaired then 'a sampled negative does not follow its positive'
            when expected.is_unseen then 'a sampled negative was not seen by then'
            when histories.user_id is null then 'user without a history'
            when
                expected.first_end < 0 or expected.last_end > len(histories.item_ids)
                then 'history_end is outside the user''s list'
            when
                expected.least_carried < expected.n_expected - expected.n_tied
                then 'the history misses a positive of earlier time'
            when
                expected.most_carried > expected.n_expected
                or expected.least_carried > expected.n_expected - expected.n_tied
                then 'the history shows the row itself or a later one'
            when
                case when expected.is_train_user then expected.n_warm_apart else expected.n_warm end
                > 0
                then 'is_warm is not what train says'
        end as violation
    from expected
    left join histories on expected.user_id = histories.user_id
),

-- The events that the protocol splits, the published ones by their calendars.
events_of_2017 as (
    select
        events.user_id,
        events.item_id
    from events
    cross join terms
    where terms.split_protocol = 'published-amazon-book' and year(events.rated_at) = 2017
),

frequent_users as (
    select user_id from events_of_2017
    group by user_id
    having count(*) > 20
),

frequent_items as (
    select item_id from events_of_2017
    group by item_id
    having count(*) > 20
),

event_sums as (
    select
        events.user_id,
        count(*) as n_events,
        sum(
            hash(events.item_id, events.rated_at, (events.rating >= terms.positive_rating)::integer)
        ) as fingerprint
    from events
    cross join terms
    where
        terms.is_strict
        or (
            terms.split_protocol = 'published-ml-1m'
            and events.rated_at >= '2001-06-01'::timestamp
            and events.rated_at < '2003-02-01'::timestamp
        )
        or (
            terms.split_protocol = 'published-amazon-book'
            and year(events.rated_at) = 2017
            and events.user_id in (select frequent_users.user_id from frequent_users)
            and events.item_id in (select frequent_items.item_id from frequent_items)
        )
    group by events.user_id
),

row_sums as (
    select
        splits.user_id,
        count(*) as n_events,
        sum(hash(splits.item_id, splits.rated_at, splits.label::integer)) as fingerprint
    from splits
    cross join terms
    where not terms.is_implicit or splits.label = 1
    group by splits.user_id
),

-- Past 20 M rows, of every n-th user.
looked_at as (
    select greatest(count(*) // 20000000, 1) as every from splits
),

both_signs as (
    select distinct user_id
    from (
        select
            splits.user_id,
            splits.item_id
        from splits
        cross join terms
        cross join looked_at
        where terms.is_implicit and hash(splits.user_id) % looked_at.every = 0
        group by splits.user_id, splits.item_id
        having min(splits.label) <> max(splits.label)
    ) as items
),

found as (
    select
        split,
        row,
        user_id,
        violation
    from judged
    where violation is not null
    union all
    select
        null as split,
        null as row,
        coalesce(event_sums.user_id, row_sums.user_id) as user_id,
        'rows are not the user''s events' as violation
    from event_sums
    full outer join row_sums on event_sums.user_id = row_sums.user_id
    where
        event_sums.n_events is distinct from row_sums.n_events
        or event_sums.fingerprint is distinct from row_sums.fingerprint
    union all
    select
        null as split,
        null as row,
        user_id,
        'a sampled negative is a positive of the user' as violation
    from both_signs
    union all
    select
        null as split,
        null as row,
        totals.user_id,
        'more sampled negatives than asked for' as violation
    from totals
    cross join terms
    where
        terms.is_implicit
        and totals.n_rows > totals.n_positives * (1 + terms.negatives_per_positive)
)

select
    split,
    row,
    user_id::varchar as user_id,
    violation
from found
union all
select
    'train' as split,
    null as row,
    null as user_id,
    'nothing to train on' as violation
-- Not `exists`: with it DuckDB 2.0 never finished on a few million rows.
where (select count(*) from train_items) = 0
order by split, row, user_id, violation
