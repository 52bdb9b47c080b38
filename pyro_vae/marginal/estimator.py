"""The contract of an estimator of log p(x)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.errors import BadInput, NoEvidence, datapoints, positive_int
from pyro_vae.errors.own_code import is_own, own_code
from pyro_vae.marginal.evidence import LogEvidence
from pyro_vae.programs.checks import require_match, require_programs, require_tensors
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.density import Latents
from pyro_vae.programs.inference_mode import ordinary
from pyro_vae.programs.progress import progress as show_progress
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.programs.session import for_programs
from pyro_vae.programs.trace import Program, base_of, random_sites, trace

Progress = Callable[[int], Any]
"""Called with the number of pairs (sample, datapoint) done since the last call."""


class Estimator(ABC):
    """Estimates log p(x) of a Pyro model and guide whose datapoints lie in one plate at dim −1.

    docs/reference/programs.md describes the programs that are accepted.

    Derive your own estimator from this class: set `name` and `num_samples`, and implement `estimate`. The other members
    have defaults.

    Attributes:
        name: identifies the estimator in tables and file names. The built-in ones are called as in conf/estimator.
        num_samples: K, the number of samples per datapoint.
        simulates: whether it draws its own data from the model and uses only the number and shape of x. Then it tells
            nothing about the data, and cannot be used for training results or comparisons of models.
        estimates: whether it estimates log p(x). If False, only `LogEvidence.elbo` holds values.
        max_data: largest number of datapoints that it accepts; None: any.
        compile: whether to trace log-densities once and compile them; `auto` compiles them as soon as they have taken
            as long as compiling would.

    Example:
        >>> class Mine(Estimator):
        ...     name, num_samples = "mine", 100
        ...
        ...     def estimate(self, model, guide, x, y, progress):
        ...         return Importance(self.num_samples).estimate(model, guide, x, y, progress)
    """

    name: str
    num_samples: int
    simulates: bool = False
    estimates: bool = True
    max_data: int | None = None
    compile: bool | str = "auto"

    def __call__(
        self,
        model: Program,
        guide: Program,
        x: Tensor,
        y: Tensor | None = None,
        progress: Progress | None = None,
    ) -> LogEvidence:
        """Estimate log p(x) for x `[N, ...]`, or log p(x | y) with the labels y `[N]` of a conditional model.

        The computation runs on the device of x. Pyro's effect handlers around this call do not reach the programs:
        wrap the programs instead. Concurrent calls from several threads run one after the other.

        Args:
            model: the generative model.
            guide: the guide.
            x: data, `[N, ...]`.
            y: labels, `[N]`.
            progress: called with the number of pairs (sample, datapoint) done since the last call. By default a
                progress bar or the log shows them.

        Raises:
            BadInput: if x is empty, if this estimator misses a member, or if `check` rejects the programs or the data.
        """
        require_estimator(self)
        require_tensors(x, y)
        require_programs(model, guide, y)
        with for_programs(x):
            x, y = ordinary(x), ordinary(y)
            with fork_rng(x):  # the same draws, checked or not
                self.check(model, guide, x, y)
            if progress is not None:
                return self._estimate(model, guide, x, y, progress)
            with self.bar(x) as tick:
                return self._estimate(model, guide, x, y, tick)

    def _estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """Call `estimate`, and check what it returns."""
        with own_code("estimate", estimator=self):
            evidence: Any = self.estimate(model, guide, x, y, progress)
        kind = f"estimator={type(self).__name__}"
        if not isinstance(evidence, LogEvidence):
            raise BadInput(f"{kind}: estimate must return a LogEvidence, not a value of type {type(evidence).__name__}")
        if len(evidence.log_px) != len(x):
            raise BadInput(f"{kind}: estimate returns {len(evidence.log_px)} values of log_px for {datapoints(len(x))}")
        return evidence

    def bar(self, x: Tensor) -> AbstractContextManager[Progress]:
        """Show the progress of estimates for x, in pairs (sample, datapoint)."""
        return show_progress(self.task(len(x)), len(x) * self.num_samples, "draw")

    def task(self, num_data: int) -> str:
        """Describe the work, for the progress bar."""
        return f"estimating log p(x) of {datapoints(num_data)} by {self.name}, K = {self.num_samples}"

    def advice(self, discrete: bool = False) -> str | None:
        """Say how to improve unreliable estimates, given the current settings.

        Args:
            discrete: whether the latents are discrete.

        Returns:
            An imperative such as `set estimator.num_samples=500`; None if the estimates are exact or bounds.
        """
        return None

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> None:
        """Reject programs and data that this estimator cannot handle, before the computation starts.

        Override it to check more, and call `super().check`, which finds programs that would be misread.

        Raises:
            NoEvidence: if the guide is a point.
            BadInput: if `programs.checks.require_match` rejects the programs, or this estimator the data.
        """
        require_match(model, guide, x, y)
        x, y = next(slices(2, x, y))
        with torch.no_grad():
            sites = random_sites(trace(guide, x, y, num_samples=1)).values()
        if any(isinstance(base_of(site["fn"]), dist.Delta) for site in sites):
            raise NoEvidence(
                "this is an autoencoder: its guide is a point, q(z | x) has no density and p(z) had no part in "
                "training: log p(x) says nothing; train with another guide, e.g. guide=diagonal"
            )

    @abstractmethod
    def estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """Compute the estimates for x `[N, ...]`; `check` has passed."""


def require_estimator(value: object) -> Estimator:
    """Check that `value` is an estimator with all the members that `Estimator` does not define.

    Raises:
        BadInput: if it is not, or misses a member.
    """
    kind = type(value).__name__
    if not isinstance(value, Estimator):
        raise BadInput(
            f"estimator has type {kind}: give an instance of a class derived from pyro_vae.marginal.Estimator, "
            "e.g. pyro_vae.marginal.Auto()"
        )
    members = {
        "name": (str, "the string that tables and file names call it by"),
        "num_samples": (int, "the number of samples per datapoint"),
    }
    for member, (member_type, meaning) in members.items():
        if not isinstance(found := getattr(value, member, None), member_type):
            problem = f"has no `{member}`" if found is None else f"has {member}={found!r}"
            raise BadInput(f"estimator {kind} {problem}: set `{member}`, {meaning}, in the class or in its __init__")
    if is_own(value):
        positive_int(f"estimator {kind}: num_samples", value.num_samples)
    return value


def require_log_px(value: object) -> Estimator:
    """Check that `value` is an estimator of log p(x) of given data.

    Raises:
        BadInput: if it is not.
    """
    estimator = require_estimator(value)
    if estimator.simulates or not estimator.estimates:
        raise BadInput(f"estimator={estimator.name} does not estimate log p(x) of given data: use estimator=auto")
    return estimator


class GradientEstimator(Estimator):
    """An estimator that needs the gradient of log p(x, z) with respect to z."""

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> None:
        """Reject a guide that is a point, and latents that are discrete or masked."""
        super().check(model, guide, x, y)
        Latents.of(model, x, y)
