"""Commands for a store's life: make it, clean it up, mend it, erase from it."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from embedding_store.erasure import Erasure
from embedding_store.errors import BadInput
from embedding_store.garbage import DEFAULT_POLICY, Policy
from embedding_store.manifest import GRACE_S, LEASE_TTL_S
from embedding_store.options import Actor, As, Store
from embedding_store.output import emit
from embedding_store.store import EmbeddingStore

_DAY_S = 86_400

app = typer.Typer()


@app.command(epilog="Example: embedding-store init --grace 7200")
def init(
    store: Store,
    lease_ttl: Annotated[
        float, typer.Option("--lease-ttl", min=1, help="Seconds that a dead reader delays gc.")
    ] = LEASE_TTL_S,
    grace: Annotated[
        float,
        typer.Option("--grace", min=0, help="Seconds of reading without a lease, after gc's mark."),
    ] = GRACE_S,
    format: As = "table",
) -> None:
    """Make an empty store; of one that is there, print what it was made with."""
    made = EmbeddingStore(store).initialise(lease_ttl_s=lease_ttl, grace_s=grace)
    row = {
        "store": EmbeddingStore(store).root,
        "protocol": made.protocol,
        "lease_ttl_s": made.lease_ttl_s,
        "grace_s": made.grace_s,
    }
    emit([row], format, title="store")


@app.command(epilog="Example: embedding-store gc --explain")
def gc(
    store: Store,
    keep_last: Annotated[
        int, typer.Option("--keep-last", min=1, help="Versions that each alias named last.")
    ] = DEFAULT_POLICY.keep_last,
    keep_days: Annotated[
        float, typer.Option("--keep-days", min=0, help="Keep versions younger than this.")
    ] = DEFAULT_POLICY.younger_than_s / _DAY_S,
    explain: Annotated[
        bool, typer.Option("--explain", help="Change nothing; list what is kept too, and why.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Change nothing; list what would be done.")
    ] = False,
    format: As = "table",
) -> None:
    """Condemn the versions that nobody needs, and delete those whose readers are gone."""
    policy = Policy(keep_last=keep_last, younger_than_s=keep_days * _DAY_S)
    outcomes = EmbeddingStore(store).gc(policy, dry_run=dry_run or explain)
    rows = [
        {"what": one.what, "done": one.done, "why": one.why, "bytes": one.bytes}
        for one in outcomes
        if explain or one.done != "kept"
    ]
    emit(rows, format, title="would be done" if dry_run or explain else "done")


@app.command(epilog="Example: embedding-store recover")
def recover(store: Store, format: As = "table") -> None:
    """Finish what died half-way: decided runs without a version, and erasures without a proof."""
    opened = EmbeddingStore(store)
    rows = [
        {"what": f"run {run_key}", "done": f"version {version}", "why": "it was decided"}
        for run_key, version in opened.recover().items()
    ]
    rows += [_row(erasure) for erasure in opened.erasures()]
    emit(rows, format, title="recovered")


@app.command(epilog='Example: embedding-store erase item_semantics 20 --reason "asked to"')
def erase(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="A table whose key the id is.")],
    id: Annotated[str, typer.Argument(metavar="ID", help="Whose rows go, in every table.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the proof.")],
    store: Store,
    actor: Actor = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Come back with the proof, when the last reader is gone.")
    ] = False,
    format: As = "table",
) -> None:
    """Take an id out of every version; run it again, after the readers are gone, for the proof."""
    opened = EmbeddingStore(store)
    erasure = opened.erase(
        table,
        _id(opened, table, id),
        reason=reason,
        actor=actor or getpass.getuser(),
        wait=wait,
    )
    emit([_row(erasure)], format, title="erased")


def _id(store: EmbeddingStore, table: str, text: str) -> int | str:
    """What was typed, as the type that the table's ids have."""
    if store.key_type(table) == "string":
        return text
    try:
        return int(text)
    except ValueError as error:
        raise BadInput(f"ids of {table} are numbers ({error})") from error


def _row(erasure: Erasure) -> dict[str, str]:
    """One line about an erasure."""
    versions = (f"{old} by {new}" if new else f"{old}" for old, new in erasure.superseded.items())
    replaced = f"versions replaced: {', '.join(versions) or 'none'}"
    return {
        "what": f"erasure {erasure.name}",
        "done": erasure.state,
        "why": f"{replaced}; {erasure.why}",
    }


@app.command(epilog="Example: embedding-store events")
def events(store: Store, format: As = "table") -> None:
    """List the moves of aliases that no scheduler was told of yet."""
    rows = [
        {
            "alias": entry.alias,
            "sequence": entry.sequence,
            "version": entry.version,
            "manifest_sha256": entry.manifest_sha256,
            "reason": entry.reason,
        }
        for entry in EmbeddingStore(store).pending_events()
    ]
    emit(rows, format, title="events to send")
