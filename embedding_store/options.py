"""Options and arguments that several commands share, so that they read the same everywhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from embedding_store.integrity import Level
from embedding_store.output import Format


def _default_store() -> str:
    return str(Path(os.environ.get("TIDEMARK_HOME") or ".tidemark") / "store")


Store = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="TIDEMARK_STORE",
        default_factory=_default_store,
        show_default="$TIDEMARK_HOME/store, or .tidemark/store",
        help="Root of the store.",
    ),
]
As = Annotated[Format, typer.Option("--format", help="Tables for people, the rest for programs.")]
Ref = Annotated[str, typer.Argument(help="A version's number or an alias.")]
At = Annotated[str, typer.Option("--at", help="A version's number or an alias.")]
Check = Annotated[
    Level,
    typer.Option(
        "--verify",
        help="full: hash every file; cached: what this machine has not hashed lately; "
        "footer: sizes and footers; off: trust.",
    ),
]
TableName = Annotated[str, typer.Argument(metavar="TABLE", help="A table of the version.")]
Actor = Annotated[
    str | None, typer.Option("--actor", help="Who.", show_default="the user of this process")
]
