"""A job's command line, made from its config class: nothing is declared twice."""

from __future__ import annotations

import sys
from argparse import RawDescriptionHelpFormatter
from datetime import date
from typing import Any, Generic, NamedTuple, TypeVar, cast

from pydantic import BaseModel, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from jobs.launch import MODULES

M = TypeVar("M", bound=BaseModel)
EXIT_USAGE = 2


class Invocation(NamedTuple, Generic[M]):
    """What a command line asks for."""

    config: M
    day: date
    force: bool
    wait_s: float
    dry_run: bool


class _Flags(BaseSettings):
    """Flags that every job has. Values come from the command line alone, never from variables."""

    day: date = Field(description="as-of day, YYYY-MM-DD; the day itself is the future")
    force: bool = Field(False, description="redo the work even if nothing changed")
    wait_s: float = Field(
        0.0, ge=0, description="seconds to wait for another run of this job and day"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class _FlagsOfCostly(_Flags):
    """And the flag of those that can say beforehand what they will cost."""

    dry_run: bool = Field(
        False, description="print tokens, memory and time to expect, and do nothing else"
    )


def explain(error: ValidationError) -> str:
    """What is wrong with which flag."""
    return "; ".join(
        f"--{'-'.join(str(part) for part in e['loc']).replace('_', '-')} {e['input']!r}: {e['msg']}"
        if e["loc"]
        else e["msg"].removeprefix("Value error, ")  # of several flags together; it names them
        for e in error.errors()
    )


def _example(program: str, config_class: type[BaseModel]) -> str:
    """A command that would run: every flag that has no default, with the value of its field."""
    required = {n: f for n, f in config_class.model_fields.items() if f.is_required()}
    words = [program]
    for name, field in required.items():
        words += [f"--{name.replace('_', '-')}", str((field.examples or [name.upper()])[0])]
    return " ".join([*words, "--day", "2026-03-02"])


def parse(
    name: str, config_class: type[M], arguments: list[str], *, can_estimate: bool = False
) -> Invocation[M]:
    """What `arguments` ask for; exits with 2 on nonsense. `can_estimate` adds --dry-run."""
    program = f"python -m {MODULES[name]}"
    doc = f"{config_class.__doc__}\n\nexample: {_example(program, config_class)}"
    settings = cast(
        type[_Flags],
        type(
            "Invocation",
            (_FlagsOfCostly if can_estimate else _Flags, config_class),
            {
                "__doc__": doc,
                "__module__": __name__,
                "model_config": SettingsConfigDict(
                    cli_kebab_case=True,
                    cli_implicit_flags=True,
                    cli_hide_none_type=True,
                    cli_enforce_required=True,
                    cli_prog_name=program,
                    extra="forbid",
                    frozen=True,
                ),
            },
        ),
    )
    source: CliSettingsSource[Any] = CliSettingsSource(
        settings, formatter_class=RawDescriptionHelpFormatter
    )
    try:
        given = source(args=arguments)()
        flags = settings(**given)
    except ValidationError as error:
        sys.stderr.write(f"{program}: {explain(error)}\n")
        sys.exit(EXIT_USAGE)
    fields = {field: getattr(flags, field) for field in config_class.model_fields}
    dry_run = getattr(flags, "dry_run", False)
    return Invocation(config_class(**fields), flags.day, flags.force, flags.wait_s, dry_run)
