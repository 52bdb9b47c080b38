"""Paired differences of log p(x) between models, over the same datapoints."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from pyro_vae.data.values import to_numpy
from pyro_vae.errors import BadInput


class Estimates(Protocol):
    """log p(x) of one model for each of N datapoints, in nats, as `LogEvidence` has it."""

    @property
    def log_px(self) -> Any:
        """The estimates, a tensor or array `[N]`."""

    @property
    def unreliable(self) -> Any:
        """Whether each is unreliable, booleans `[N]`."""


@dataclass(frozen=True)
class Difference:
    """How much higher log p(x) of a model is than that of another, on the same N datapoints.

    The standard error covers the choice of the datapoints and the noise of the estimates, but not that of training: it
    compares these trained models, not two ways of training, unless `of` is told the noise of training.

    Attributes:
        difference: mean of log p(x_i) − log p'(x_i) over datapoints, nats; None if one of them is infinite or NaN.
        se: its standard error, nats; None if it is unknown.
        z: difference / se; None if it is unknown or se is 0.
        num_data: N.
        flagged: datapoints whose estimate by this model is unreliable.
        flagged_in_either: datapoints whose estimate by one of the models is unreliable.
        flagged_in_both: datapoints whose estimates by both models are unreliable.
        difference_without_flagged: the mean over the datapoints that are not flagged in either, nats.
        se_without_flagged: its standard error, nats.

    Example:
        >>> one, other = (vae.evidence(x, estimator="importance", num_samples=n) for n in (500, 5))
        >>> difference = Difference.of(one, other)
        >>> difference.num_data, difference.difference > 0  # more samples raise the estimate
        (20, True)
    """

    difference: float | None
    se: float | None
    z: float | None
    num_data: int
    flagged: int
    flagged_in_either: int
    flagged_in_both: int
    difference_without_flagged: float | None
    se_without_flagged: float | None

    @classmethod
    def of(cls, model: Estimates, other: Estimates, training_se: float = 0.0) -> Difference:
        """Compare a model with another one on the same datapoints, in the same order.

        Args:
            model: the estimates of one, such as the result of `vae.evidence(x)`.
            other: those of the other.
            training_se: standard error of the difference over trainings, nats, if both are means over runs: it is added
                in quadrature, as independent noise.

        Raises:
            BadInput: if the numbers of datapoints differ.
        """
        d = differences(model, other)
        flags, others = to_numpy(model.unreliable), to_numpy(other.unreliable)
        either = flags | others
        mean, se = _mean(d, training_se)
        return cls(
            mean,
            se,
            None if mean is None or not se else mean / se,
            len(d),
            int(flags.sum()),
            int(either.sum()),
            int((flags & others).sum()),
            *_mean(d[~either], training_se),
        )


def differences(model: Estimates, other: Estimates) -> np.ndarray:
    """Return log p(x_i) of a model minus that of another, `[N]`, nats.

    Raises:
        BadInput: if the numbers of datapoints differ.
    """
    one, two = (to_numpy(each.log_px).astype(float) for each in (model, other))
    if one.shape != two.shape:
        raise BadInput(f"{len(one)} and {len(two)} datapoints cannot be paired: estimate log p(x) of the same x")
    with np.errstate(invalid="ignore"):  # both may be −inf
        return one - two


def _mean(d: np.ndarray, of_training: float) -> tuple[float | None, float | None]:
    """Return the mean of d `[N]` and its standard error, with that of training; None where it is unknown."""
    if not len(d) or not np.isfinite(d).all():
        return None, None
    return float(d.mean()), math.hypot(d.std(ddof=1) / math.sqrt(len(d)), of_training) if len(d) > 1 else None
