"""The contract of objectives."""

from abc import abstractmethod
from collections.abc import Callable, Hashable, Iterator
from typing import Any, ClassVar, NamedTuple

import pyro.infer
import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.programs.trace import Program

Traces = tuple[Trace, Trace]
"""The model's and the guide's trace."""


class Bound(NamedTuple):
    """The value of an objective on a batch: three scalars, in nats, summed over the datapoints.

    Attributes:
        loss: −bound, which carries the gradient estimator.
        elbo: Σ_n mean_k log p(x_n, z_k) − log q(z_k | x_n), detached: the ELBO of the same draws, without any weight
            of the objective. Where q is a point, log p(z) − log q(z | x) counts as 0.
        log_likelihood: Σ_n mean_k log p(x_n | z_k), detached.
    """

    loss: Tensor
    elbo: Tensor
    log_likelihood: Tensor


class Objective(pyro.infer.ELBO):
    """A bound on Σ_n log p(x_n) with a gradient estimator.

    An objective can replace `pyro.infer.Trace_ELBO` in `pyro.infer.SVI`. A subclass defines `bound`; `Trainer` uses
    nothing but the members below. Datapoints lie in a plate at dim −1, particles at dim −2.

    Example:
        The ELBO minus an L2 penalty on the parameters:

        >>> from pyro_vae.objectives import Trace_ELBO
        >>> class Penalized(Trace_ELBO):
        ...     def bound(self, model, guide, *args, **kwargs):
        ...         loss, *others = super().bound(model, guide, *args, **kwargs)
        ...         named = pyro.get_param_store().named_parameters()
        ...         return Bound(loss + sum(p.square().sum() for _, p in named), *others)
    """

    name: ClassVar[str] = "objective"
    """The name in messages and in conf/objective."""
    num_variants: ClassVar[int] = 1
    """How many different programs `at_step` alternates between; each has a compiled graph."""
    traces_guide_twice: ClassVar[bool] = False
    """Whether log q(z | x) is computed apart from the draw of z, and must not be random."""
    kl_weight: float = 1.0
    """Weight of the KL at the end of training, by which the best epoch is chosen."""

    @abstractmethod
    def bound(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Bound:
        """Evaluate the bound on a batch; `args` and `kwargs` are those of the programs."""

    def at_step(self, step: int, epoch: float) -> Hashable:
        """Prepare the next call for a position in training, which schedules depend on.

        Args:
            step: optimizer steps done.
            epoch: epochs done, including the fraction of the current one.

        Returns:
            A key of the program that the next call runs. There are `num_variants` of them.
        """
        return None

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> str | None:
        """Return a note for the user, if there is anything to know about this combination.

        Raises:
            BadInput: if the objective cannot train this model and guide.
        """
        return None

    @abstractmethod
    def for_validation(self, num_particles: int) -> "Objective":
        """Return the objective that measures the progress of this one, with `num_particles` draws if it allows.

        The caller applies `kl_weight`.
        """

    def loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return −bound in nats, summed over the batch."""
        with torch.no_grad():
            return self.bound(model, guide, *args, **kwargs).loss.item()

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """Return −bound in nats, summed over the batch, which carries the gradient estimator."""
        return self.bound(model, guide, *args, **kwargs).loss

    def loss_and_grads(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> float:
        """Return −bound in nats, summed over the batch, and add its gradient to `.grad` of the parameters."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.item()

    def _get_traces(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Iterator[Traces]:
        traces: Iterator[Traces] = super()._get_traces(model, guide, args, kwargs)  # type: ignore[no-untyped-call]
        return traces

    def _get_trace(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Traces:
        of_pyros_elbo: Callable[..., Traces] = pyro.infer.Trace_ELBO._get_trace
        return of_pyros_elbo(self, model, guide, args, kwargs)
