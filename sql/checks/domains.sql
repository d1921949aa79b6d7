-- Domains that cannot be: a home holds exactly one, with a noun and a known split protocol.
-- Grain: one row per violation.
with judged as (
    select
        domain,
        case
            when count(*) over () > 1 then 'more than one domain in one home'
            when trim(domain) = '' then 'empty name'
            when trim(item_noun) = '' then 'empty item noun'
            when
                split_protocol not in ('published-ml-1m', 'rolling')
                then 'unknown split protocol'
            when
                positive_rating <= 1 or positive_rating > 5
                then 'labels would all be the same'
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
