-- One column of times, parsed: text, a count since 1970, or wall times of the file's own type.
-- A wall time without an offset of its own is one of `zone`: where the clock is put back, the
-- later of the two moments; where it is put forward, none. A count that no calendar holds, as one
-- in another unit, is out of range.
-- Grain: one row per row of the source; where `moment` is null, `reason` says why, or no value was
-- given.
with shaped as (
    select
        place,
        text,
        number,
        wall,
        $form = 'iso' and regexp_full_match(
            text,
            '[0-9]{4}-[0-9]{2}-[0-9]{2}[T ]([01][0-9]|2[0-3]):[0-9]{2}'
            || '(:[0-9]{2}([.][0-9]{1,9})?)?(Z|[+-](0[0-9]|1[0-5])(:?[0-5][0-9])?)?'
        ) as is_iso,
        -- Behind the date and the hour, a sign can only be that of an offset.
        contains(text[14:], '+') or contains(text[14:], '-') or ends_with(text, 'Z') as has_offset
    from source_times
),

read_texts as (
    select
        place,
        coalesce(text, '') = '' and number is null and wall is null as is_missing,
        case
            when is_iso and not has_offset then try_cast(text as timestamp)
            when $form = 'date' and regexp_full_match(text, '[0-9]{4}-[0-9]{2}-[0-9]{2}')
                then try_cast(text as timestamp)
            when $form = 'pattern' and not $pattern_has_offset
                then try_strptime(text, $pattern)::timestamp
            else wall
        end as wall,
        case
            -- A cast to `timestamp` would drop the offset without a word.
            when is_iso and has_offset then timezone('UTC', try_cast(text as timestamptz))
            when $form = 'pattern' and $pattern_has_offset
                then try_strptime(text, $pattern)::timestamp
        end as moment,
        case
            when $unit_us is null then null
            when number is not null then number::hugeint * $unit_us::bigint
            when regexp_full_match(text, '-?[0-9]{1,18}([.][0-9]{1,9})?')
                then floor(try_cast(text as decimal(28, 9)) * $unit_us::bigint)::hugeint
        end as count_us
    from shaped
),

in_utc as (
    select
        place,
        is_missing,
        count_us,
        case
            when moment is not null then moment
            when $zone = 'UTC' then wall
            else timezone('UTC', timezone($zone, wall))
        end as moment,
        coalesce(
            $zone <> 'UTC' and timezone($zone, timezone($zone, wall)) <> wall, false
        ) as is_skipped
    from read_texts
),

counted as (
    select
        place,
        is_missing,
        is_skipped,
        case
            when count_us is null then moment
            when abs(count_us) < 1e17 then make_timestamp(count_us::bigint)  -- some 3,000 years
        end as moment,
        count_us is not null or moment is not null as is_read
    from in_utc
)

select
    place,
    case when not is_skipped then moment end as moment,
    case
        when is_missing then null
        when not is_read then 'unparsable'
        when is_skipped then 'skipped by the clock'
        when moment is null then 'out of range'
    end as reason
from counted
order by place
