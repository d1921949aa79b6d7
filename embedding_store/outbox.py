"""Which moves of an alias a scheduler still has to be told of, at least once each."""

from __future__ import annotations

from embedding_store.aliases import Aliases
from embedding_store.blobs import Blobs
from embedding_store.fates import Fates
from embedding_store.manifest import AliasEntry, seal

EVENTS = "events"


def _sent_name(entry: AliasEntry) -> str:
    return f"{EVENTS}/{entry.alias}/{entry.sequence:010d}.sent"


def pending(aliases: Aliases) -> list[AliasEntry]:
    """Moves without a mark, oldest first by alias; those whose version is gone are nobody's news.

    Whoever sends them marks them afterwards, so a sender that dies in between sends twice.
    Consumers drop what they have seen: `(alias, sequence)` names an event for ever.
    """
    fates = Fates(aliases.blobs)
    return [
        entry
        for alias in aliases.names()
        for entry in aliases.log(alias)
        if not aliases.blobs.exists(_sent_name(entry)) and not fates.of(entry.version).is_final
    ]


def mark_sent(blobs: Blobs, entry: AliasEntry) -> None:
    """Remember that the event of a move was delivered."""
    event = {"alias": entry.alias, "sequence": entry.sequence, "version": entry.version}
    blobs.create_if_absent(_sent_name(entry), seal(event))
