-- Figures that cannot be: shares and AUC out of range, windows that end before they begin, layers
-- whose attention does not add up to one, a negative log loss.
-- Grain: one row per violation.
with summed as (
    select
        *,
        sum(value) over (partition by measure, figure, first_layer) as total
    from llm_diagnostics
),

judged as (
    select
        measure,
        kind,
        first_layer,
        figure,
        case
            when first_layer < 0 or last_layer < first_layer then 'no such window of layers'
            when
                figure in ('mass', 'share', 'sink_free', 'auc', 'uauc')
                and value not between -1e-4 and 1.0001
                then 'value is not between 0 and 1'
            when figure = 'lift' and value < -1e-4 then 'lift below zero'
            when
                (figure like 'delta_%' or (measure = 'intervention' and figure like '%auc%'))
                and abs(value) > 1.0001
                then 'value is not between -1 and 1'
            when
                measure = 'intervention' and figure like '%log_loss'
                and figure not like '%delta%' and figure not like '%less%' and value < 0
                then 'log loss below zero'
            when figure in ('mass', 'share') and abs(total - 1) > 1e-3
                then 'attention does not add up to one'
        end as violation
    from summed
)

select
    measure,
    kind,
    first_layer,
    figure,
    violation
from judged
where violation is not null
order by measure, kind, first_layer, figure
