"""The posteriors p(z | x) of some datapoints, up to a constant, with the compiled functions that evaluate them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pyro_vae.compilation.compiled import compiled
from pyro_vae.marginal.prior import prior_of
from pyro_vae.programs.density import Evaluate, Latents, LogDensity, density_and_grad, log_density_at
from pyro_vae.programs.memory import pairs_at_once, power_of_two
from pyro_vae.programs.time_limit import check_time
from pyro_vae.programs.trace import Program

BLOCK = 50
"""Draws of each datapoint that are evaluated at once, at least."""

NUMBERS = 2**22
"""Numbers in matrices `[D, D]` that fit into the cache, 16 MiB in float32."""

MATRICES = 12
"""Matrices `[D, D]` of each datapoint in memory at once, one for each start of a search."""


@dataclass(frozen=True)
class Posteriors:
    """log p(x, u) of N datapoints as a function of their unconstrained latents u `[k, N, D]`, and draws to start from.

    Each evaluation may raise `OutOfTime`, see `programs.time_limit`.

    Attributes:
        latents: the latent sites.
        model: the generative model.
        guide: the guide.
        x: data, `[N, ...]`.
        y: labels, `[N]`.
        pairs: how many pairs (draw, datapoint) to evaluate at once.
        prior: the model without its observed sites.
    """

    latents: Latents
    model: Program
    guide: Program
    x: Tensor
    y: Tensor | None
    pairs: int
    prior: Program
    _density: Callable[..., Tensor]
    _gradient: Callable[..., tuple[Tensor, Tensor]]
    _draw: Callable[..., Tensor]

    @classmethod
    def of(
        cls,
        model: Program,
        guide: Program,
        x: Tensor,
        y: Tensor | None,
        compile: bool | str,
        chunk_size: int | str = "auto",
    ) -> Posteriors:
        """Compile the functions as `compile` says; they are shared by the posteriors that `rows` returns.

        `chunk_size` is the number of pairs, or `auto`: as many as fit into the cache.

        Raises:
            Incompatible: if a latent is discrete or masked, or has different bounds for each datapoint.
        """
        functions = (compiled(fn, compile) for fn in (log_density_at, density_and_grad, Latents.draw))
        pairs = pairs_at_once(chunk_size, model, x, y)
        return cls(Latents.of(model, x, y), model, guide, x, y, pairs, prior_of(model), *functions)

    def __len__(self) -> int:
        """N."""
        return len(self.x)

    def rows(self, index: Tensor) -> Posteriors:
        """Return the posteriors of some of the datapoints, which may repeat."""
        return replace(self, x=self.x[index], y=None if self.y is None else self.y[index])

    @property
    def at_once(self) -> int:
        """Number of datapoints to process at once, a power of two.

        With `BLOCK` draws of each, they fill `pairs`. There are fewer of many dimensions, with large matrices.
        """
        return power_of_two(min(self.pairs // BLOCK, NUMBERS // (MATRICES * self.latents.dim**2)))

    def blocks(self, num_samples: int) -> Iterator[int]:
        """Yield the sizes of blocks of draws that are evaluated at once, `num_samples` in all."""
        block = max(1, self.pairs // len(self))
        for done in range(0, num_samples, block):
            yield min(block, num_samples - done)

    @property
    def log_joint(self) -> LogDensity:
        """log p(x, u), to be differentiated."""
        return self.latents.log_density(self.model, self.x, self.y)

    @property
    def first_order(self) -> LogDensity:
        """log p(x, u), whose first derivatives come from the compiled gradient; it has no second ones."""

        def log_density(u: Tensor) -> Tensor:
            value: Tensor = _FirstOrder.apply(u, self.value_and_grad)
            return value

        return log_density

    def log_prob(self, u: Tensor) -> Tensor:
        """Evaluate log p(x, u), `[k, N]`, without gradients."""
        check_time()
        with torch.no_grad():
            return self._density(self.latents, self.model, self.x, self.y, u)

    def value_and_grad(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate log p(x, u), `[k, N]`, and its gradient, `[k, N, D]`."""
        return self.value_and_grad_of(self.model, u)

    def value_and_grad_of(self, program: Program, u: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate the log-density of a program that draws u, `[k, N]`, and its gradient, `[k, N, D]`."""
        check_time()
        return self._gradient(self.latents, program, self.x, self.y, u)

    def log_guide(self, u: Tensor) -> Tensor:
        """Evaluate log q(u | x) of the guide, `[k, N]`, without gradients."""
        check_time()
        with torch.no_grad():
            return self._density(self.latents, self.guide, self.x, self.y, u)

    def log_prior(self, u: Tensor) -> Tensor:
        """Evaluate log p(u), `[k, N]`, without gradients."""
        check_time()
        with torch.no_grad():
            return self._density(self.latents, self.prior, self.x, self.y, u)

    def draw_guide(self, num_samples: int) -> Tensor:
        """Draw from the guide, `[num_samples, N, D]`."""
        check_time()
        with torch.no_grad():
            return self._draw(self.latents, self.guide, self.x, self.y, num_samples=num_samples)

    def draw_prior(self, num_samples: int) -> Tensor:
        """Draw from the prior, `[num_samples, N, D]`."""
        check_time()
        with torch.no_grad():
            return self.latents.draw(self.prior, self.x, self.y, num_samples=num_samples)

    def center(self) -> tuple[Tensor, Tensor]:
        """Return the guide's mean and variance, `[N, D]`."""
        with torch.no_grad():
            variance = self.latents.variance(self.guide, self.x, self.y)
            return self.latents.center(self.guide, self.x, self.y), variance


class _FirstOrder(torch.autograd.Function):
    """A function that computes its value and its gradient at once."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, evaluate: Evaluate) -> Tensor:
        """Evaluate `[k, N]` at u `[k, N, D]`."""
        value, gradient = evaluate(u.detach())
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        """Multiply by the gradient."""
        (gradient,) = ctx.saved_tensors
        return grad_outputs[0].unsqueeze(-1) * gradient, None
