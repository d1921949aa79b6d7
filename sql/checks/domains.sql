-- Domains that cannot be: a home holds exactly one, with a noun and a known split protocol.
-- Grain: one row per violation.
with judged as (
    select
        domain,
        case
            when count(*) over () > 1 then 'more than one domain in one home'
            when trim(domain) = '' then 'empty name'
            when trim(item_noun) = '' then 'empty item noun'
            when feedback not in ('rating', 'label', 'implicit') then 'unknown feedback'
            when
                split_protocol not in (
                    'rolling', 'leave-one-out', 'published-ml-1m', 'published-amazon-book'
                )
                then 'unknown split protocol'
            when
                feedback <> 'implicit'
                and (positive_rating <= minimum or positive_rating > maximum)
                then 'labels would all be the same'
            when
                (feedback = 'implicit') <> (negatives_per_positive > 0)
                then 'negatives without implicit feedback, or it without them'
            when least(valid_days, test_days) < 1 then 'a window without days'
        end as violation
    from domains
)

select
    domain,
    violation
from judged
where violation is not null
union all
select
    null as domain,
    'no domain at all' as violation
where not exists (select 1 from domains)
order by domain, violation
