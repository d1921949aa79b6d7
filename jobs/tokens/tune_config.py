"""How soft tokens are tuned: every system of the papers, and each of its ablations, is a config."""

from __future__ import annotations

import difflib
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from jobs.llm.backbone import DEFAULT_BACKBONE
from jobs.llm.course import CourseConfig
from jobs.llm.lora import ALL_LINEAR
from jobs.llm.reading import ReadingConfig
from jobs.tokens.inputs import InputsConfig
from jobs.tokens.mappers import MapperKind
from jobs.tokens.soft_inputs import KINDS, UserSource

PRESETS = Path(__file__).resolve().parent / "presets"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")


class TokensConfig(InputsConfig):
    """Which soft tokens there are, and what makes them."""

    tokens: str = Field(
        default="user,item,warm", description="kinds in the prompt, of: user, item, warm"
    )
    user_tokens: int = Field(default=1, gt=0, le=8, description="soft tokens of a user")
    user_mapper: MapperKind = Field(default="mlp", description="from a user's input to tokens")
    shared_projector: bool = Field(
        default=True, description="users and items go through one mapper, as in SeLLa-Rec"
    )
    projector: Literal["aligned", "random"] = Field(
        default="aligned", description="first weights of user and item mappers: align's, or chance"
    )
    n_hidden: int = Field(default=256, gt=0, description="hidden units of a random mlp")
    user_source: UserSource = Field(
        default="factor_or_history",
        description="a user's input: the row of the factorisation, the mean of the history as of "
        "the event, or the row where there is one",
    )

    @field_validator("tokens")
    @classmethod
    def _known_kinds(cls, value: str) -> str:
        kinds = [kind.strip() for kind in value.split(",") if kind.strip()]
        if not kinds or len(set(kinds)) < len(kinds) or set(kinds) - set(KINDS):
            raise ValueError(f"expected some of {', '.join(KINDS)}, each once, with commas between")
        return ",".join(kinds)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds in the prompt, in the order of `SoftKind`."""
        return tuple(kind for kind in KINDS if kind in self.tokens.split(","))

    def places(self) -> dict[str, int]:
        """How many soft tokens stand at each place of a kind."""
        counts = {"user": self.user_tokens, "item": 1, "warm": 1}
        return {kind: counts[kind] if kind in self.kinds else 0 for kind in KINDS}


class SteeringConfig(TokensConfig):
    """A bias for each layer on the keys of soft tokens; see docs/steering.md."""

    steering: Literal[
        "none",
        "suppress-enhance",
        "reversed",
        "suppress",
        "enhance",
        "uniform",
        "random-sign",
    ] = Field(default="none", description="how the bias runs through the layers")
    suppress: float = Field(default=2.0, ge=0, description="size of the negative part")
    enhance: float = Field(default=1.0, ge=0, description="largest value of the positive part")
    steering_bias: Literal["fixed", "signed", "free"] = Field(
        default="fixed", description="given; learned with its sign; learned by layer, head and kind"
    )
    steering_rate: float = Field(
        default=1.0, gt=0, description="share of the learning rate that a learned bias takes"
    )
    steering_weight: float = Field(
        default=1e-3, ge=0, description="of a learned bias's distance from where it began"
    )


class LearningConfig(SteeringConfig):
    """What learns, and from what."""

    train_adapter: bool = Field(
        default=False, description="the LoRA learns too, as in SAILRec; else the LLM is frozen"
    )
    adapter_rate: float = Field(default=0.03, gt=0, description="its share of the learning rate")
    rank: int = Field(default=16, gt=0, description="of a LoRA that begins here")
    alpha: float = Field(default=32.0, gt=0, description="of a LoRA that begins here")
    targets: str = Field(default=ALL_LINEAR, description="of a LoRA that begins here")
    learn: str = Field(default="user,item,warm", description="kinds whose mappers and inputs learn")
    learn_inputs: bool = Field(
        default=False, description="the inputs of users and items learn too, as in SeLLa-Rec"
    )
    inputs_rate: float = Field(default=0.1, gt=0, description="their share of the learning rate")
    text_only: float = Field(
        default=0.1, ge=0, lt=1, description="share of sequences that learn without soft tokens"
    )
    strangers: float = Field(
        default=0.3, ge=0, lt=1, description="share whose user is known by history alone"
    )
    profiles: Literal["none", "content", "labels_hard", "codes_hard", "codes_soft"] = Field(
        default="none", description="what user tokens are aligned to; methods: codebook profiles"
    )
    permuted_profiles: bool = Field(
        default=False, description="null control: profiles dealt out to users at random"
    )
    warm_up_epochs: int = Field(
        default=50, ge=0, description="of the contrastive warm-up at most; it needs profiles"
    )
    alignment_weight: float = Field(
        default=0.05, ge=0, description="of the contrastive loss beside the click-through loss"
    )
    offset: Literal["none", "control"] = Field(
        default="none", description="control: learn on top of control_logits, out of fold"
    )


class TuneConfig(ReadingConfig, CourseConfig, LearningConfig):
    """Soft tokens of users and items, tuned on the click-through task.

    SeLLa-Rec's third stage by default: LLM and LoRA frozen, projectors learn. A preset is a file of
    other defaults; flags that are given win over it: --preset sailrec --steering none. A killed run
    goes on from its last checkpoint when the same command is given again.
    """

    learning_rate: float = Field(
        default=0.01,
        gt=0,
        description="AdamW step at its peak, of a layer of the usual size; smaller ones take less",
    )
    preset: str | None = Field(
        default=None, description="a name in jobs/tokens/presets, or a TOML file of these fields"
    )
    model: str = Field(
        default=DEFAULT_BACKBONE, description="the bundled model, a folder, a GGUF file or a hub id"
    )
    adapter: str | None = Field(
        default=None, description="LoRA of stage 1: a day on which adapt ran, or a folder"
    )
    init_tokens: str | None = Field(
        default=None, description="go on from these mappers: a day of tune, or a folder"
    )
    template: str = Field(
        default="ctr_soft_events", description="a template of jobs/llm/templates, or a TOML file"
    )
    valid_rows: int = Field(
        default=0, ge=0, description="valid rows to stop on, of users drawn at random; 0: all"
    )
    valid_history: Literal["online", "frozen"] = Field(
        default="online", description="frozen: valid rows see the positives of train alone"
    )
    device: str = Field(default="auto", description="auto, cpu, cuda, cuda:1, ...")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        default="auto",
        description="of the backbone; auto: bfloat16 where the hardware multiplies it",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or not given.get("preset"):
            return given
        return _preset(str(given["preset"]), set(cls.model_fields)) | given


def _preset(name: str, fields: set[str]) -> dict[str, Any]:
    """The fields that a preset sets."""
    if name.endswith(".toml"):
        path = Path(name)
    else:
        path = PRESETS / f"{name if _NAME.fullmatch(name) else '-'}.toml"
    if not path.is_file():
        there = ", ".join(sorted(each.stem for each in PRESETS.glob("*.toml")))
        raise ValueError(
            f"--preset {name}: there is no such preset; there is: {there}; or give a .toml file"
        )
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: not TOML ({error})") from error
    if unknown := sorted(set(found) - (fields - {"preset"})):
        close = difflib.get_close_matches(unknown[0], fields, n=1)
        meant = f"; did you mean '{close[0]}'?" if close else ""
        raise ValueError(f"{path}: unknown key '{unknown[0]}'{meant}")
    return found
