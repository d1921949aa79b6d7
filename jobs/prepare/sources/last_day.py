"""The newest day of a source, for runs that are given no day."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import SourceError
from jobs.prepare.sources.mapping import Mapping
from jobs.prepare.sources.parse import LATEST, Parser
from jobs.prepare.sources.raw_file import files_of
from jobs.prepare.sources.readers import event_batches


def last_day(mapping: Mapping, root: Path) -> date:
    """The newest day of events: of the newest delivery, else of the newest event.

    The first night that knows all of them is that of the next day. Only times are read, and of
    files with days in their names nothing.

    Raises:
        SourceError: no event has a time.
    """
    files = files_of(mapping.events, root, mapping.domain)
    if mapping.events.has_days:
        return max(file.known_from for file in files if file.known_from).date() - timedelta(days=1)
    newest: list[pa.Scalar] = []
    with Parser(mapping) as parser:
        for file in files:
            for batch in event_batches(mapping, file, columns=[mapping.events.columns.at]):
                at = parser.times(batch, mapping.events.columns.at, mapping.events.at, file)
                is_before = pc.less(at["moment"], pa.scalar(LATEST, pa.timestamp("us")))
                newest.append(pc.max(pc.filter(at["moment"], is_before)))
    moments = [moment.as_py() for moment in newest if moment.is_valid]
    if not moments:
        raise SourceError(f"{root}: no event has a time that can be read; see `at` of the mapping")
    return max(moments).date()
