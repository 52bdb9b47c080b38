"""The ELBO by turns: the guide's parameters, then the model's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pyro.poutine import Trace
from torch import Tensor

from pyro_vae.errors import positive_int
from pyro_vae.objectives.elbo import Trace_ELBO, TraceMeanField_ELBO
from pyro_vae.objectives.parameters import only, parameters
from pyro_vae.programs.trace import Program


class VariationalEM(TraceMeanField_ELBO):
    """Of `e_steps + m_steps` optimizer steps the first raise the ELBO in φ, the others in θ, with q(z | x) held fixed.

    Neal & Hinton (1998), A view of the EM algorithm that justifies incremental, sparse, and other variants. A parameter
    that does not move in a step has no gradient (`.grad` is None): an optimizer's momentum does not move it either.

    Args:
        e_steps: steps in φ, the guide's parameters.
        m_steps: steps in θ, the model's; what occurs in both programs is the model's.
        num_particles: draws of z a datapoint.

    Raises:
        BadInput: if one of them is no positive whole number.
    """

    name: ClassVar[str] = "variational_em"
    num_variants: ClassVar[int] = 2

    def __init__(self, e_steps: int = 1, m_steps: int = 1, num_particles: int = 1) -> None:
        super().__init__(num_particles)
        self.e_steps = positive_int("e_steps", e_steps)
        self.m_steps = positive_int("m_steps", m_steps)

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> str | None:
        """A note, where draws are not reparameterized: the exact posterior of a discrete latent is EM's own E-step."""
        return Trace_ELBO.check(self, model, guide, x, y)

    @property
    def variant(self) -> bool:
        """Whether the next step is one in φ."""
        return self.step % (self.e_steps + self.m_steps) < self.e_steps

    def differentiable_loss(self, model: Program, guide: Program, *args: Any, **kwargs: Any) -> Tensor:
        """−ELBO in nats, summed over the batch, with a gradient for φ or for θ; the others' `.grad` becomes None."""
        e_step = self.variant
        guide = guide if e_step else torch.no_grad()(guide)
        loss = super().differentiable_loss(model, guide, *args, **kwargs)
        moving, fixed = (self._phi, self._theta) if e_step else (self._theta, self._phi)
        for parameter in fixed:
            parameter.grad = None
        return only(loss, moving)

    def _get_traces(self, model: Program, guide: Program, args: Any, kwargs: Any) -> Iterator[tuple[Trace, Trace]]:
        for traces in super()._get_traces(model, guide, args, kwargs):
            self._theta, self._phi = parameters(*traces)
            yield traces
