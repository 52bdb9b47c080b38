"""A guide's distribution of all its latents, with parameters that move for each datapoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyro_vae.distributions import AutoregressiveFlow
from pyro_vae.marginal.families import Frame, Gaussian, opened
from pyro_vae.programs.density import Latents
from pyro_vae.programs.trace import Program, trace


@dataclass(frozen=True)
class Chain:
    """q(u | x) of a guide with any latent sites, e.g. q(z1 | x) q(z2 | z1).

    Its family: the parameters of each site's distribution, as its network makes them from x and the sites before it,
    are moved by offsets that are free for each datapoint but do not depend on those sites. A location moves by a
    multiple of the standard deviation there, a scale by a factor. With offsets of zero it is the guide.
    """

    latents: Latents
    guide: Program
    x: Tensor
    y: Tensor | None = None

    def rsample(self, sample_shape: tuple[int]) -> Tensor:
        """Draw u `[K, N, D]` for a `sample_shape` of (K,), reparameterized."""
        return self.latents.draw(self.guide, self.x, self.y, num_samples=sample_shape[0])

    def sample(self, sample_shape: tuple[int]) -> Tensor:
        """Draw without a graph."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def log_prob(self, u: Tensor) -> Tensor:
        """Return log q(u | x) in nats, `[K, N]`, for u `[K, N, D]`."""
        return self.latents.log_density(self.guide, self.x, self.y)(u)

    def opened(self) -> tuple[list[Tensor], Callable[[list[Tensor]], Chain]]:
        """Return moves of zero, and a function that returns the chain after moves."""
        draws = trace(self.guide, self.x, self.y, num_samples=100)
        frames = self._frames(draws)
        moves = {name: [p.start[0] for p in opened(draws.nodes[name]["fn"], frames[name])[0]] for name in frames}

        def moved(flat: list[Tensor]) -> Chain:
            values = iter(flat)
            by_site = {name: [next(values) for _ in site_moves] for name, site_moves in moves.items()}
            return replace(self, guide=_Moved(by_site, frames)(self.guide))

        return [torch.zeros_like(move) for site_moves in moves.values() for move in site_moves], moved

    def towards(self, loc: Tensor, precision: Tensor) -> Chain:
        """Return the chain moved to a normal's location `[N, D]`, with its precisions `[N, D, D]`.

        Each site has the precision that the normal has given the sites before it, at their locations.
        """
        draws = trace(self.guide, self.x, self.y, num_samples=100)
        frames = self._frames(draws)
        values, _ = self.latents.unpack(loc)
        at_loc = trace(poutine.condition(self.guide, values), self.x, self.y, num_samples=None)
        covariance = torch.linalg.inv(precision)
        ranges = self._ranges()
        moves: dict[str, list[Tensor]] = {}
        before: list[int] = []
        for name, frame in frames.items():
            before = before + ranges[name]
            size = len(ranges[name])
            given = torch.linalg.inv(covariance[:, before][:, :, before])[:, -size:, -size:]
            gaussian = Gaussian(values[name], given)
            moves[name] = [p.move_to(gaussian) for p in opened(at_loc.nodes[name]["fn"], frame)[0]]
        return replace(self, guide=_Moved(moves, frames)(self.guide))

    def _frames(self, draws: Any) -> dict[str, Frame | None]:
        """Return the units of each site, in the guide's order."""
        names = {site.name for site in self.latents.sites}
        frames: dict[str, Frame | None] = {}
        for name, node in draws.nodes.items():
            if name in names:
                flow = isinstance(node["fn"], AutoregressiveFlow)
                frames[name] = Frame.of(node["fn"], node["value"]) if flow else None
        return frames

    def _ranges(self) -> dict[str, list[int]]:
        """Return the dimensions of u that each site fills."""
        ranges, first = {}, 0
        for site in self.latents.sites:
            size = site.unconstrained_shape.numel()
            ranges[site.name] = list(range(first, first + size))
            first += size
        return ranges


class _Moved(Messenger):
    """Moves the parameters of the sites' distributions."""

    def __init__(self, moves: dict[str, list[Tensor]], frames: dict[str, Frame | None]) -> None:
        super().__init__()
        self.moves, self.frames = moves, frames

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name in self.moves:
            free, build = opened(msg["fn"], self.frames[name])
            msg["fn"] = build(p.moved(move) for p, move in zip(free, self.moves[name], strict=True))
