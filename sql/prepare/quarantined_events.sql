-- Rows that were kept out of the events, as they came, with the reason.
-- Grain: one row per line of a source file.
select
    known_ratings.source_file,
    known_ratings.line,
    known_ratings.raw,
    rejected_ratings.reason
from known_ratings
inner join rejected_ratings on known_ratings.source_row = rejected_ratings.source_row
order by known_ratings.source_file, known_ratings.line
