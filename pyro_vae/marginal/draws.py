"""Draws of importance sampling with their weights, for those who want more of the posterior than log p(x)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.errors import integer, positive_int
from pyro_vae.programs.chunks import require_room
from pyro_vae.programs.log_weights import draw_and_weigh
from pyro_vae.programs.trace import Program, random_sites, trace


@dataclass(frozen=True)
class Draws:
    """Draws from a proposal, with their importance weights.

    Attributes:
        log_weights: log w = log p(x, z) − log q(z | x), `[K, N]`, float64, nats.
        z: the draws at each latent site, `[K, N, ...]`, on the CPU like `log_weights`.
    """

    log_weights: Tensor
    z: dict[str, Tensor]

    def posterior(self, num_draws: int, seed: int = 0) -> dict[str, Tensor]:
        """Draw approximately from p(z | x) by resampling with probabilities w / Σw: `[num_draws, N, ...]` by site.

        Where the effective sample size is small, few different draws repeat: sampling importance resampling, Rubin
        (1988), Using the SIR algorithm to simulate posterior distributions, Bayesian Statistics 3.

        Raises:
            BadInput: if `num_draws` is not a positive integer.
        """
        positive_int("num_draws", num_draws)
        generator = torch.Generator().manual_seed(integer("seed", seed))
        probabilities = self.log_weights.softmax(0).nan_to_num(1.0).T  # all weights are 0: any draw is as good
        chosen = torch.multinomial(probabilities, num_draws, replacement=True, generator=generator).T
        rows = torch.arange(chosen.shape[1])
        return {name: z[chosen, rows] for name, z in self.z.items()}

    @classmethod
    def cat(cls, parts: Sequence[Draws]) -> Draws:
        """Concatenate the draws of several sets of datapoints."""
        z = {name: torch.cat([part.z[name] for part in parts], 1) for name in parts[0].z}
        return cls(torch.cat([part.log_weights for part in parts], 1), z)


class Keeper:
    """Keeps blocks of draws with their log-weights, on the CPU."""

    def __init__(self) -> None:
        self._blocks: list[tuple[Tensor, dict[str, Tensor]]] = []

    def add(self, log_w: Tensor, z: dict[str, Tensor]) -> None:
        """Keep log-weights `[k, N]` and the draws at each latent site, `[k, N, ...]`."""
        self._blocks.append((log_w.double().cpu(), {name: value.cpu() for name, value in z.items()}))

    def weigh(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, *, num_samples: int) -> Tensor:
        """Return `log_weights` `[num_samples, N]` at draws from the guide, and keep both."""
        log_w, z = draw_and_weigh(model, guide, x, y, num_samples=num_samples)
        self.add(log_w, z)
        return log_w

    def take(self) -> Draws:
        """Return the draws since the last call, of all blocks."""
        weights, draws = zip(*self._blocks, strict=True)
        self._blocks = []
        return Draws(torch.cat(weights), {name: torch.cat([z[name] for z in draws]) for name in draws[0]})


def require_room_for_draws(num_samples: int, guide: Program, x: Tensor, y: Tensor | None) -> None:
    """Check that K draws for each datapoint and their log-weights fit into memory.

    Raises:
        BadInput: if they do not.
    """
    with torch.no_grad():
        first = trace(guide, x[:1], None if y is None else y[:1], num_samples=1)
    size = 1 + sum(site["value"].numel() for site in random_sites(first).values())
    like = torch.empty(0, dtype=torch.float64)
    require_room(num_samples * len(x) * size, like, f"keep_draws=True with num_samples={num_samples} takes")
