-- Books of the dump's metadata: of several lines of one book the last, as the published protocol
-- has it, also where that line has no title. Lines that name no book stay, each for itself.
-- Grain: one row per book, and per line without a book.
select
    line,
    asin,
    title,
    no_json_object
from metadata_lines
qualify
    asin is null
    or line = max(line) over (partition by asin)
order by line
