"""The rows that a bench file may ask for: fitted here, scored elsewhere, blended, not measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from jobs.job import Config

TABLE, FUSION, NOT_MEASURED, FITTED = "table", "fusion", "not_measured", "fitted"
TRIVIAL = {"item_mean": "Item mean", "item_user_mean": "Item mean + user mean"}  # always run
NAME = r"[a-z0-9][a-z0-9_.-]*"


class Published(Config):
    """What a paper reports for a system on this split."""

    auc: float = Field(ge=0, le=1)
    uauc: float | None = Field(default=None, ge=0, le=1)
    source: str


class Entry(Config):
    """A row of the table: a registered system with its settings."""

    name: str = Field(pattern=f"^{NAME}$", description="what results and --only call it")
    system: str = Field(description="short name in jobs/collab/baselines/registry.py")
    title: str | None = Field(default=None, description="what the table calls it")
    settings: dict[str, Any] = Field(default={}, description="fields of the system's config")
    seeds: tuple[int, ...] | None = Field(default=None, description="other seeds than the bench's")
    refit_every_days: int | None = Field(
        default=None, gt=0, description="nights between two fits, if not the bench's"
    )
    published: Published | None = None
    note: str = Field(default="", description="a sentence below the table")


class TableEntry(Config):
    """A row of the table whose scores were made elsewhere, by an LLM for instance."""

    name: str = Field(pattern=f"^{NAME}$")
    system: Literal["table"]
    title: str
    backbone: str | None = Field(default=None, description="the LLM behind the scores")
    scores: tuple[Path, ...] | Literal["llm_scores"] = Field(
        description="Parquet files of (split, row, logit), one a seed, beside this file; "
        "or the home's own table"
    )
    frozen_scores: tuple[Path, ...] | None = Field(
        default=None,
        description="the same of test rows whose histories end where test begins, one a seed",
    )
    tokens: int | None = Field(default=None, ge=0, description="read to train and to score")
    cpu_s: float | None = Field(default=None, ge=0)
    wall_s: float | None = Field(default=None, ge=0)
    peak_mib: float | None = Field(default=None, ge=0)
    published: Published | None = None
    note: str = ""

    @model_validator(mode="after")
    def _frozen_scores_pair_with_scores(self) -> TableEntry:
        n_seeds = 1 if isinstance(self.scores, str) else len(self.scores)
        if self.frozen_scores is not None and len(self.frozen_scores) != n_seeds:
            raise ValueError(
                f"frozen_scores: {len(self.frozen_scores)} files beside {n_seeds} of scores; "
                "one a seed, in the same order"
            )
        return self


class FusionEntry(Config):
    """A row of the table that blends others of the same file, with weights fitted on valid."""

    name: str = Field(pattern=f"^{NAME}$")
    system: Literal["fusion"]
    of: tuple[str, ...] = Field(min_length=2, description="names of fitted systems or tables")
    title: str | None = Field(default=None, description="by default the titles of its parts")
    published: Published | None = None
    note: str = ""


class NotMeasuredEntry(Config):
    """A row of the table that nobody has measured yet; it says why."""

    name: str = Field(pattern=f"^{NAME}$")
    system: Literal["not_measured"]
    title: str
    why: str = Field(min_length=1)
    backbone: str | None = None
    published: Published | None = None
    note: str = ""


KINDS: dict[str, type[Config]] = {
    FITTED: Entry,
    TABLE: TableEntry,
    FUSION: FusionEntry,
    NOT_MEASURED: NotMeasuredEntry,
}


def _kind(value: Any) -> str:
    named = value.get("system") if isinstance(value, Mapping) else getattr(value, "system", None)
    return named if named in KINDS and named != FITTED else FITTED


BenchEntry: TypeAlias = Entry | TableEntry | FusionEntry | NotMeasuredEntry
AnyEntry = Annotated[  # the same, as a file gives it
    Annotated[Entry, Tag(FITTED)]
    | Annotated[TableEntry, Tag(TABLE)]
    | Annotated[FusionEntry, Tag(FUSION)]
    | Annotated[NotMeasuredEntry, Tag(NOT_MEASURED)],
    Discriminator(_kind),
]
