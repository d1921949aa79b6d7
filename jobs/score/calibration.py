"""Logits to probabilities: sigmoid(a * logit + c), and a blend of two models' logits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from embedding_store.lookup import Version
from jobs.datasets import CALIBRATION
from jobs.errors import NotAvailable
from jobs.report.metrics import ece, log_loss

CALIBRATION_FILE = f"{CALIBRATION.name}.json"  # of a version
# Which logits a model's probability is made of. A model that blends others has no logit of its own.
INPUTS: dict[str, tuple[str, ...]] = {"mf": ("mf",), "llm": ("llm",), "fused": ("llm", "mf")}
_FEWEST = 10  # rows of a class; fewer say nothing
_RIDGE = 1e-3  # of a standardised coefficient, against a log likelihood that is a sum over rows
_MOST_BESIDE = 4.0  # times what tuning took the LLM's weight for; a ratio of two fits can explode
_LEAST_GAIN = 1.0  # in nats of log likelihood, of a model in a blend
_MOST_STEPS, _CLOSE = 100, 1e-12

_FIGURES = {"log_loss": log_loss, "ece": ece}

Floats = NDArray[np.float64]
Logits = Mapping[str, NDArray[np.float32]]


def sigmoid(logits: NDArray[np.floating]) -> NDArray[np.float32]:
    """1 / (1 + exp(-logit)), (n,) float32, held inside (0, 1): nothing is certain."""
    wide = np.exp(-np.logaddexp(0, -logits.astype(np.float64)))
    one = np.float32(1)
    return np.clip(wide.astype(np.float32), np.finfo(np.float32).tiny, np.nextafter(one, 0 * one))


class BeforeAfter(BaseModel):
    """A figure of the rows that were fitted, with the identity and with the fit."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    before: float | None
    after: float | None


class Link(BaseModel):
    """How a probability follows from logits: sigmoid(sum of coefficient * logit + intercept).

    Attributes:
        inputs: models whose logits are read.
        coefficients: one for each input.
        intercept: c.
        is_fitted: False where the rows could not say it: then the mean of the inputs is taken.
        why: why not; None where it is fitted.
        n_rows: valid rows that it was fitted on.
        n_positives: of them.
        log_loss: in nats a row, on the same rows.
        ece: on the same rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[str, ...]
    coefficients: tuple[float, ...]
    intercept: float
    is_fitted: bool = False
    why: str | None = None
    n_rows: int = 0
    n_positives: int = 0
    log_loss: BeforeAfter = BeforeAfter(before=None, after=None)
    ece: BeforeAfter = BeforeAfter(before=None, after=None)

    @classmethod
    def identity(cls, model: str, why: str | None = None) -> Link:
        """Of one model its own logit, of several their mean."""
        inputs = INPUTS[model]
        return cls(
            inputs=inputs, coefficients=(1 / len(inputs),) * len(inputs), intercept=0.0, why=why
        )

    def linear(self, logits: Logits) -> Floats:
        """(n,) what the sigmoid is taken of."""
        found = np.full(len(logits[self.inputs[0]]), self.intercept)
        for name, coefficient in zip(self.inputs, self.coefficients, strict=True):
            found += coefficient * logits[name].astype(np.float64)
        return found


class Calibration(BaseModel):
    """The links of the models of one version.

    Attributes:
        split: whose rows were fitted.
        models: by name.
        beside_control: weight of the LLM's own logit where it was tuned on top of a control's; the
            logit of model `llm` is the control's plus that many times its own.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = 1
    split: str = "valid"
    models: dict[str, Link]
    beside_control: float = 1.0

    @classmethod
    def of_version(cls, version: Version) -> Calibration:
        """What was published; no link at all where nothing was.

        Raises:
            NotAvailable: the file is of another form.
        """
        if CALIBRATION_FILE not in version.manifest.extra_files:
            return cls(models={})
        text = version.file(CALIBRATION_FILE).read_text(encoding="utf-8")
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise NotAvailable(
                f"version {version.version}: {CALIBRATION_FILE} is of another form than this "
                f"program reads ({error.errors()[0]['msg']}); publish the day again"
            ) from error

    def link(self, model: str) -> Link:
        """The model's link; the identity where nothing was fitted."""
        return self.models.get(model) or Link.identity(model)


# -- fitting ---------------------------------------------------------------------------------------


def fitted_link(model: str, labels: NDArray[np.int8], logits: Logits) -> Link:
    """The link of a model with the highest likelihood on some rows.

    For one model Platt's sigmoid(a * logit + c) (Platt 1999), for several their blend; found by
    Newton's method with a small ridge on standardised logits, in sums whose order is fixed: the
    same rows give the same link. The identity is kept, and the reason said, where the rows are too
    few, where a line tells the classes apart (the likelihood has no maximum), or where no model's
    higher logit means a higher chance. In a blend such a model gets no weight, for a negative one
    would be chance; nor does one that raises the log likelihood by less than 1 nat (AIC, Akaike
    1974): one that has learned nothing gains more, with a positive weight, one time in 12.

    Args:
        model: in `INPUTS`.
        labels: (n,) 0 or 1.
        logits: (n,) of each of the model's inputs.
    """
    n_positives = int(labels.sum())
    fewest = min(n_positives, len(labels) - n_positives)
    link = Link.identity(model)
    why = None
    if fewest < _FEWEST:
        why = f"{n_positives} of {len(labels)} rows are positive; {_FEWEST} of each are needed"
    else:
        fit = _blended(np.stack([logits[name] for name in link.inputs], axis=1), labels)
        why = _refusal(fit, link.inputs)
        if why is None:
            link = link.model_copy(
                update={
                    "coefficients": tuple(fit.coefficients.tolist()),
                    "intercept": fit.intercept,
                    "is_fitted": True,
                }
            )
    before = sigmoid(Link.identity(model).linear(logits))
    after = sigmoid(link.linear(logits))
    figures = {
        name: BeforeAfter(before=figure(labels, before), after=figure(labels, after))
        for name, figure in _FIGURES.items()
    }
    counts = {"n_rows": len(labels), "n_positives": n_positives}
    return link.model_copy(update={"why": why, **counts, **figures})


def fitted_blend(labels: NDArray[np.int8], logits: Logits, factors: Link) -> Link:
    """The link `fused`: of LLM and factors where the LLM pays, else the factors' own.

    The factors' link is of all valid rows and the blend of those that the LLM was asked about,
    often far fewer. So where the LLM gets no weight, or the rows are too few to say, nothing of the
    blend is better than that link.

    Args:
        labels: (n,) 0 or 1, of the rows that the LLM was asked about.
        logits: (n,) of `llm` and `mf`.
        factors: the link of `mf`.
    """
    link = fitted_link("fused", labels, logits)
    if link.is_fitted and link.coefficients[0] > 0:
        return link
    alone = link.model_copy(
        update={
            "coefficients": (0.0, factors.coefficients[0]),
            "intercept": factors.intercept,
            "is_fitted": factors.is_fitted,
            "why": link.why or "the LLM adds nothing beyond chance to the factors",
        }
    )
    probabilities = sigmoid(alone.linear(logits))
    after = {
        name: getattr(link, name).model_copy(update={"after": figure(labels, probabilities)})
        for name, figure in _FIGURES.items()
    }
    return alone.model_copy(update=after)


def weight_beside(
    labels: NDArray[np.int8], control: NDArray[np.float32], own: NDArray[np.float32]
) -> float:
    """Weight of what an LLM says on top of a control's logit: 0 where that has not paid.

    Tuning takes it for 1, on few tokens from too little evidence: what it has learned of chance
    would be added as well. Between 0 and `_MOST_BESIDE`; 0 also where the rows cannot say.

    Args:
        labels: (n,) 0 or 1.
        control: (n,) logits that are known without the LLM.
        own: (n,) what it adds.
    """
    n_positives = int(labels.sum())
    if min(n_positives, len(labels) - n_positives) < _FEWEST:
        return 0.0
    features = np.stack([control, own], axis=1)
    both, alone = _logistic(features, labels), _logistic(features[:, :1], labels)
    of_control, of_own = both.coefficients.tolist()
    gain = _log_likelihood(both, features, labels) - _log_likelihood(alone, features[:, :1], labels)
    if of_own <= 0 or gain < _LEAST_GAIN:
        return 0.0
    return float(min(of_own / of_control, _MOST_BESIDE)) if of_control > 0 else _MOST_BESIDE


class _Fit(NamedTuple):
    coefficients: Floats  # (k,) of the logits as they come
    intercept: float
    is_separating: bool


def _refusal(fit: _Fit, inputs: tuple[str, ...]) -> str | None:
    if fit.is_separating:
        return "the logits tell the two classes apart without an error"
    if not (fit.coefficients > 0).any():
        slopes = ", ".join(f"{each:.3g}" for each in fit.coefficients)
        return f"a higher logit does not mean a higher chance (slope {slopes})"
    return None


def _blended(features: NDArray[np.float32], labels: NDArray[np.int8]) -> _Fit:
    """Logistic regression of the features that pay: without weights below 0, and by AIC."""
    fit = _logistic(features, labels)
    n = features.shape[1]
    kept = fit.coefficients > 0
    if kept.any() and not kept.all():
        return _of_some(kept, _blended(features[:, kept], labels))
    if n == 1 or not kept.any() or fit.is_separating:
        return fit
    others = [np.arange(n) != each for each in range(n)]
    rests = [_of_some(of, _logistic(features[:, of], labels)) for of in others]
    gains = [
        _log_likelihood(fit, features, labels) - _log_likelihood(rest, features, labels)
        for rest in rests
    ]
    least = int(np.argmin(gains))
    if gains[least] >= _LEAST_GAIN:
        return fit
    return _of_some(others[least], _blended(features[:, others[least]], labels))


def _of_some(kept: NDArray[np.bool_], fit: _Fit) -> _Fit:
    """The fit of some features as one of all: the others have no weight."""
    coefficients = np.zeros(len(kept))
    coefficients[kept] = fit.coefficients
    return fit._replace(coefficients=coefficients)


def _log_likelihood(fit: _Fit, features: NDArray[np.float32], labels: NDArray[np.int8]) -> float:
    signs = np.where(labels > 0, 1.0, -1.0)
    linear = (features.astype(np.float64) * fit.coefficients).sum(axis=1) + fit.intercept
    return -float(np.logaddexp(0, -signs * linear).sum())


def _logistic(features: NDArray[np.float32], labels: NDArray[np.int8]) -> _Fit:
    """Logistic regression by Newton's method, (n, k) features."""
    wide = features.astype(np.float64)
    centres, spreads = wide.mean(axis=0), wide.std(axis=0)
    spreads[spreads == 0] = 1.0
    design = np.column_stack([(wide - centres) / spreads, np.ones(len(wide))])
    ridge = np.append(np.full(wide.shape[1], _RIDGE), 0.0)
    share = labels.mean(dtype=np.float64)
    weights = np.append(np.zeros(wide.shape[1]), np.log(share / (1 - share)))
    signs = np.where(labels > 0, 1.0, -1.0)
    for _ in range(_MOST_STEPS):
        step = _newton_step(design, signs, weights, ridge)
        before = _penalised(design, signs, weights, ridge)
        while _penalised(design, signs, weights + step, ridge) > before:
            step /= 2
            if np.abs(step).max() < _CLOSE:
                break
        weights = weights + step
        if np.abs(step).max() < _CLOSE * max(1.0, np.abs(weights).max()):
            break
    coefficients = weights[:-1] / spreads
    margins = signs * (design * weights).sum(axis=1)
    intercept = float(weights[-1] - (coefficients * centres).sum())
    return _Fit(coefficients, intercept, bool(margins.min() > 0))


def _newton_step(design: Floats, signs: Floats, weights: Floats, ridge: Floats) -> Floats:
    """(k + 1,) from gradient and curvature, in sums by numpy: BLAS adds in an order of its own."""
    doubts = np.exp(-np.logaddexp(0, signs * (design * weights).sum(axis=1)))  # 1 - p of the label
    gradient = (design * (signs * doubts)[:, None]).sum(axis=0) - ridge * weights
    curves = design[:, :, None] * design[:, None, :] * (doubts * (1 - doubts))[:, None, None]
    return np.linalg.solve(curves.sum(axis=0) + np.diag(ridge), gradient)


def _penalised(design: Floats, signs: Floats, weights: Floats, ridge: Floats) -> float:
    """Negative log likelihood plus the ridge."""
    losses = np.logaddexp(0, -signs * (design * weights).sum(axis=1))
    return float(losses.sum() + (ridge * weights**2).sum() / 2)
