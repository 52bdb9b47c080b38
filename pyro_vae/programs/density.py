"""The log-density of a Pyro program as a function of its latents, for gradients, modes and Markov chains."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import SineBivariateVonMises, SineSkewed
from pyro.poutine import Trace
from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily, Transform, VonMises, biject_to, constraints

from pyro_vae.errors import BadInput, Incompatible
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.programs.time_limit import check_time
from pyro_vae.programs.trace import Program, base_of, log_prob, mask_of, trace

LogDensity = Callable[[Tensor], Tensor]
"""Maps u `[k, N, D]` to log-densities `[k, N]`, in nats."""

Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Maps u `[k, N, D]` to log-densities `[k, N]`, in nats, and their gradients `[k, N, D]`."""


CIRCULAR = (VonMises, SineBivariateVonMises, SineSkewed)
"""Distributions of angles from −π to π."""


@dataclass(frozen=True)
class Site:
    """A latent site: its name, the shape of its unconstrained values, and their transform to its support."""

    name: str
    unconstrained_shape: torch.Size
    transform: Transform


@dataclass(frozen=True, eq=False)  # known by identity, transforms have no hash
class Latents:
    """The latent sites of a model, concatenated to an unconstrained vector u `[..., N, D]`."""

    sites: tuple[Site, ...]

    @classmethod
    def of(cls, model: Program, x: Tensor, y: Tensor | None = None) -> Latents:
        """Find the latent sites of a model whose datapoints lie in a plate at dim −1.

        Raises:
            BadInput: if there are none.
            Incompatible: if one is discrete or masked, or if its bounds depend on the datapoint or on another latent.
        """
        x, y = next(slices(2, x, y))  # all datapoints have the same sites
        sites = []
        for name, site in trace(model, x, y, num_samples=1).nodes.items():
            if site["type"] != "sample" or site["is_observed"]:
                continue
            fn: Any = site["fn"]
            if has_atoms(fn):
                remedy = "this estimator or analysis needs continuous latents, use estimator=importance"
                raise Incompatible(f"site {name} is discrete", remedy)
            if mask_of(site) is not True:
                remedy = "its posterior is improper there, use estimator=importance"
                raise Incompatible(f"site {name} is masked", remedy)
            transform = biject_to(support_of(fn))
            shape = transform.inverse_shape(fn.event_shape)
            if len(shape) > len(fn.event_shape):
                remedy = "this estimator or analysis needs common bounds, use estimator=importance"
                raise Incompatible(f"site {name} has different bounds for each datapoint or draw", remedy)
            sites.append(Site(name, shape, transform))
        if not sites:
            raise BadInput("the model has no latent site")
        return cls(tuple(sites))

    @property
    def dim(self) -> int:
        """D."""
        return sum(site.unconstrained_shape.numel() for site in self.sites)

    @property
    def is_constrained(self) -> bool:
        """Whether the support of a site is smaller than the real line, so that its values differ from u."""
        _, log_det = self.unpack(torch.ones(1, self.dim))
        return bool(log_det.any())

    def rounds(self, u: Tensor) -> Tensor:
        """Return where values are so close to a bound that u `[..., N, D]` is lost in rounding, `[..., N]`.

        In float32, values above 1 − 1e-7 round to 1, so that densities that rise towards 1 miss a part there.
        """
        lost = torch.zeros_like(u[..., 0], dtype=torch.bool)
        for near in (u - 0.5, u + 0.5):
            values, _ = self.unpack(near)
            lost |= ~((self._pack(values) - near).abs() < 0.25).all(-1)
        return lost

    def pack(self, draws: Trace) -> Tensor:
        """Return u `[..., N, D]` for the values in a trace."""
        return self._pack({site.name: draws.nodes[site.name]["value"] for site in self.sites})

    def _pack(self, values: dict[str, Any]) -> Tensor:
        parts = []
        for site in self.sites:
            value = site.transform.inv(values[site.name])
            parts.append(
                value.flatten(value.dim() - len(site.unconstrained_shape))
                if site.unconstrained_shape
                else value.unsqueeze(-1)
            )
        return torch.cat(parts, dim=-1)

    def unpack(self, u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the values of the sites at u `[..., N, D]`, and log |dz / du| `[..., N]`."""
        values, log_det = {}, torch.zeros_like(u[..., 0])
        for site, part in zip(
            self.sites, u.split([s.unconstrained_shape.numel() for s in self.sites], -1), strict=True
        ):
            part = part.reshape(part.shape[:-1] + site.unconstrained_shape)
            values[site.name] = site.transform(part)
            jacobian = site.transform.log_abs_det_jacobian(part, values[site.name])
            log_det = log_det + jacobian.reshape(*u.shape[:-1], -1).sum(-1)
        return values, log_det

    def log_density(self, program: Program, x: Tensor, y: Tensor | None = None) -> LogDensity:
        """Return the log-density of a program at given latents: log p(x, u) of a model, log q(u | x) of a guide."""

        def log_density(u: Tensor) -> Tensor:
            values, log_det = self.unpack(u)
            conditioned = trace(poutine.condition(program, values), x, y, num_samples=len(u))
            return (log_prob(conditioned, len(u), x) + log_det).to(u.dtype)

        return log_density

    def draw(self, program: Program, x: Tensor, y: Tensor | None = None, *, num_samples: int) -> Tensor:
        """Draw u `[num_samples, N, D]` from a program that samples all sites."""
        return _as_data(self.pack(trace(program, x, y, num_samples=num_samples)), x)

    def variance(self, program: Program, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the variance `[N, D]` of 100 draws from a program, between 1e-8 and 1e8."""
        return self.draw(program, x, y, num_samples=100).var(0).clamp(1e-8, 1e8)

    def center(self, guide: Program, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the guide's mean `[N, D]`, or the mean of 100 draws if it is unknown or there are several sites."""
        draws = trace(guide, x, y, num_samples=1)
        try:
            (site,) = self.sites  # the mean of a site given a draw of another one would be random
            fn: Any = draws.nodes[site.name]["fn"]
            draws.nodes[site.name]["value"] = fn.mean
        except (ValueError, NotImplementedError):
            return self.draw(guide, x, y, num_samples=100).mean(0)
        return _as_data(self.pack(draws).squeeze(0), x)


def _as_data(u: Tensor, x: Tensor) -> Tensor:
    """Return u with the dtype of x: under another default dtype, model and guide may draw with different ones."""
    return u.to(x.dtype) if x.is_floating_point() else u


def density_and_grad(
    latents: Latents, program: Program, x: Tensor, y: Tensor | None, u: Tensor
) -> tuple[Tensor, Tensor]:
    """Evaluate `latents.log_density(program, x, y)` and its gradient at u `[k, N, D]`: `[k, N]` and `[k, N, D]`."""
    return value_and_grad(latents.log_density(program, x, y), u)


def is_discrete(program: Program, x: Tensor, y: Tensor | None = None) -> bool:
    """Return whether all latents of a program are discrete."""
    x, y = next(slices(2, x, y))
    with torch.no_grad(), fork_rng(x):
        sites = trace(program, x, y, num_samples=1).nodes.values()
    return all(has_atoms(site["fn"]) for site in sites if site["type"] == "sample" and not site["is_observed"])


def has_atoms(fn: Any) -> bool:
    """Return whether a distribution is discrete, i.e. has probabilities instead of a density."""
    try:
        return fn.has_enumerate_support or bool(fn.support.is_discrete)
    except NotImplementedError:  # the support is unknown
        return False


def log_density_at(latents: Latents, program: Program, x: Tensor, y: Tensor | None, u: Tensor) -> Tensor:
    """Evaluate `latents.log_density(program, x, y)` at u."""
    return latents.log_density(program, x, y)(u)


def support_of(fn: Any) -> Any:
    """Return the set over which a density integrates to 1.

    That of a mixture is its components'. Torch says that angles are any real numbers, where their density is periodic.
    """
    if isinstance(fn, MixtureSameFamily):
        return support_of(fn.component_distribution)
    if isinstance(fn, Independent) and isinstance(base_of(fn), MixtureSameFamily):
        return constraints.independent(support_of(fn.base_dist), fn.reinterpreted_batch_ndims)
    if isinstance(base_of(fn), CIRCULAR):
        return constraints.independent(constraints.interval(-math.pi, math.pi), fn.event_dim)
    return fn.support


def value_and_grad(f: LogDensity, u: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate f and its gradient at u `[k, N, D]`: `[k, N]` and `[k, N, D]`."""

    def total(u: Tensor) -> tuple[Tensor, Tensor]:
        value = f(u)
        return value.sum(), value

    gradient, value = torch.func.grad(total, has_aux=True)(u)
    return value.detach(), gradient.detach()


def hessian(f: LogDensity, u: Tensor, chunk_size: int = 8) -> Tensor:
    """Compute the Hessian of f at u `[N, D]` or `[k, N, D]`, for all points at once: `[..., N, D, D]`.

    The gradient is linearized once and multiplied by D unit vectors, `chunk_size` of them at a time.
    """
    gradient = torch.func.grad(lambda u: f(u).sum())
    points = u.reshape(-1, *u.shape[-2:])
    product: Any = torch.func.vjp(gradient, points)[1]
    basis = torch.eye(u.shape[-1], dtype=u.dtype, device=u.device)

    def times(direction: Tensor) -> Tensor:
        check_time()
        row: Tensor = product(direction.expand_as(points))[0]
        return row

    rows = torch.func.vmap(times, chunk_size=chunk_size)(basis)  # [D, k, N, D]
    H: Tensor = rows.movedim(0, -2).reshape(*u.shape, -1).detach()
    return 0.5 * (H + H.mT)
