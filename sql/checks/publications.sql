-- Publications that cannot be: one run publishes exactly one version, numbered from 1.
-- Grain: one row per violation.
select
    version,
    run_key,
    case
        when version < 1 then 'version is not positive'
        when alias = '' then 'empty alias'
        else 'run key is not a sha256'
    end as violation
from publications
where version < 1 or alias = '' or length(run_key) <> 64
order by version
