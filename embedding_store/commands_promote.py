"""Commands that move aliases, or say which version to go on from."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from embedding_store.lookup import previous_version
from embedding_store.options import Actor, As, Store
from embedding_store.output import emit
from embedding_store.store import EmbeddingStore

app = typer.Typer()


@app.command(epilog='Example: embedding-store promote 1 production --reason "report looked at"')
def promote(
    version: Annotated[int, typer.Argument(help="A version's number.")],
    alias: Annotated[str, typer.Argument(help="The name to move.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the alias's log.")],
    store: Store,
    actor: Actor = None,
    expected_prev: Annotated[
        int | None,
        typer.Option("--expected-prev", help="Refuse unless the alias names this (0: nothing)."),
    ] = None,
    despite_gates: Annotated[
        bool, typer.Option("--despite-gates", help="Even if the version failed its gates.")
    ] = False,
    format: As = "table",
) -> None:
    """Point an alias at a version; one of an earlier day, or that failed a gate, is refused."""
    entry = EmbeddingStore(store).promote(
        version,
        alias,
        reason=reason,
        actor=actor or getpass.getuser(),
        expected_prev=expected_prev,
        despite_gates=despite_gates,
    )
    row = {"alias": alias, "version": entry.version, "move": entry.sequence, "actor": entry.actor}
    emit([row], format, title="promoted")


@app.command(epilog='Example: embedding-store rollback production --reason "bad neighbours"')
def rollback(
    alias: Annotated[str, typer.Argument(help="The name to move back.")],
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the alias's log.")],
    store: Store,
    to: Annotated[
        int | None,
        typer.Option("--to", help="A version's number.", show_default="the version before"),
    ] = None,
    actor: Actor = None,
    despite_gates: Annotated[
        bool, typer.Option("--despite-gates", help="Even if the version failed its gates.")
    ] = False,
    format: As = "table",
) -> None:
    """Point an alias back at the version before, or at any other, whatever its day."""
    entry = EmbeddingStore(store).rollback(
        alias,
        reason=reason,
        actor=actor or getpass.getuser(),
        version=to,
        despite_gates=despite_gates,
    )
    assert entry.prev is not None  # there is something to go back from
    row = {
        "alias": alias,
        "version": entry.version,
        "from": entry.prev.version,
        "move": entry.sequence,
        "actor": entry.actor,
    }
    emit([row], format, title="rolled back")


@app.command(epilog="Example: embedding-store previous --day 2026-03-02 --format json")
def previous(
    store: Store,
    day: Annotated[str, typer.Option("--day", help="YYYY-MM-DD.")],
    format: As = "table",
) -> None:
    """Name last night's version: of the highest day before, the last that passed its gates."""
    version = previous_version(store, day)
    emit([{"day": day, "version": version}], format, title="last night's version")
