-- Rows of a source with every column read, good or bad: the first reason that applies. An id is a
-- number, or text where the other is null. Bad rows keep what could be read of them.
-- Moments before `earliest` or from `latest` on are out of range and not believed: a count in
-- another unit, or a year that was typed wrongly.
-- `role` says which column is to blame: user, item, feedback, at, arrival; null for none of these.
-- Grain: one row per row of the source; `reason` is null where it can be an event.
with read_columns as (
    select
        place,
        broken,
        rejected,
        coalesce(user_text, '') = '' and user_number is null as has_no_user,
        coalesce(item_text, '') = '' and item_number is null as has_no_item,
        coalesce(feedback_text, '') = '' and feedback_number is null as has_no_feedback,
        -- Digits alone: a bare cast also takes 1e3, 1_000 and 1.5.
        case
            when $user_is_text then null
            when user_number is not null then user_number
            when regexp_full_match(user_text, '-?[0-9]{1,18}') then try_cast(user_text as bigint)
        end as user_number,
        case
            when
                $user_is_text
                and length(user_text) between 1 and 255
                and not regexp_matches(user_text, '[[:cntrl:]\x{FFFD}]')
                then user_text
        end as user_text,
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
        case
            when $feedback = 'implicit' then 1.0
            when $feedback = 'label' and list_contains($positives::varchar[], lower(feedback_text))
                then 1.0
            when $feedback = 'label' and list_contains($negatives::varchar[], lower(feedback_text))
                then 0.0
            when $feedback = 'rating' and feedback_number is not null then feedback_number
            when
                $feedback = 'rating'
                and regexp_full_match(feedback_text, '-?[0-9]{1,9}([.][0-9]+)?')
                then try_cast(feedback_text as double)
        end as rating,
        case
            when at_moment >= $earliest::timestamp and at_moment < $latest::timestamp
                then at_moment
        end as rated_at,
        case
            when at_reason is not null then at_reason
            when at_moment is null then 'missing'
            when at_moment < $earliest::timestamp or at_moment >= $latest::timestamp
                then 'out of range'
        end as at_reason,
        case
            when arrival_moment >= $earliest::timestamp and arrival_moment < $latest::timestamp
                then arrival_moment
        end as arrived_at,
        case
            when $arrives_by <> 'column' then null
            when arrival_reason is not null then arrival_reason
            when arrival_moment is null then 'missing'
            when arrival_moment < $earliest::timestamp or arrival_moment >= $latest::timestamp
                then 'out of range'
        end as arrival_reason
    from source_fields
),

arrived as (
    select
        place,
        broken,
        rejected,
        has_no_user,
        has_no_item,
        $feedback <> 'implicit' and has_no_feedback as has_no_feedback,
        user_number,
        user_text,
        item_number,
        item_text,
        rating,
        rated_at,
        at_reason,
        arrival_reason,
        case
            when $arrives_by = 'column' then arrived_at
            when $arrives_by = 'file' then $known_from::timestamp
            else date_trunc('day', rated_at) + interval 1 day
        end as ingested_at
    from read_columns
),

judged as (
    select
        place,
        user_number,
        user_text,
        item_number,
        item_text,
        rating,
        rated_at,
        ingested_at,
        case
            when broken is not null then (broken, null)
            when rejected is not null then (rejected, 'rule')
            when has_no_user then ('missing user', 'user')
            when has_no_item then ('missing item', 'item')
            when has_no_feedback then ('missing ' || $feedback, 'feedback')
            when at_reason = 'missing' then ('missing timestamp', 'at')
            when arrival_reason = 'missing' then ('missing arrival', 'arrival')
            when user_number is null and user_text is null then ('unparsable user', 'user')
            when item_number is null and item_text is null then ('unparsable item', 'item')
            when rating is null then ('unparsable ' || $feedback, 'feedback')
            when at_reason = 'unparsable' then ('unparsable timestamp', 'at')
            when arrival_reason = 'unparsable' then ('unparsable arrival', 'arrival')
            when
                $feedback = 'rating'
                and not rating between $minimum::double and $maximum::double
                then ('rating out of range', 'feedback')
            when at_reason is not null then ('timestamp ' || at_reason, 'at')
            when arrival_reason is not null then ('arrival ' || arrival_reason, 'arrival')
            when
                ($arrives_by = 'file' and rated_at >= ingested_at)
                or ($arrives_by = 'column' and rated_at > ingested_at)
                then ('event after its delivery', 'at')
        end as verdict
    from arrived
)

select
    user_number,
    user_text,
    item_number,
    item_text,
    try_cast(rating as float) as rating,
    rated_at,
    ingested_at,
    verdict[1] as reason,
    verdict[2] as role
from judged
order by place
