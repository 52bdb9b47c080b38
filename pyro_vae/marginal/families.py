"""The parameters of a distribution's family, which can be moved for each datapoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.distributions import Independent, MixtureSameFamily, TransformedDistribution, constraints, transform_to
from torch.distributions.transforms import AffineTransform

from pyro_vae.distributions import AutoregressiveFlow
from pyro_vae.marginal.laplace import scale_tril_of

_DERIVED = ("probs", "covariance_matrix", "precision_matrix")
_KEPT = ("logits", "scale_tril")
_JITTER = 0.3
"""Standard deviations between a mode and a mixture's components: at the same place they would stay equal."""


class Gaussian(NamedTuple):
    """N(loc, precision⁻¹) of each datapoint, `[N, *event]` and `[N, D, D]`, e.g. a Laplace approximation."""

    loc: Tensor
    precision: Tensor

    @property
    def scale(self) -> Tensor:
        """Standard deviations of the independent normal with the largest ELBO, like loc."""
        return self.precision.diagonal(dim1=-2, dim2=-1).rsqrt().reshape(self.loc.shape)


class Frame(NamedTuple):
    """The units in which a flow moves: mean and standard deviation of its draws, and size of its features."""

    center: Tensor
    spread: Tensor
    unit: Tensor

    @classmethod
    def of(cls, q: Any, draws: Tensor) -> Frame:
        """Return the frame of q, given draws `[K, N, D]`."""
        return cls(draws.mean(0), draws.std(0), q.features.square().mean().sqrt().clamp(min=1e-3))


@dataclass(frozen=True)
class Free:
    """A parameter to optimize, starting from `value`; a location moves in units of `spread`."""

    name: str
    constraint: Any
    value: Tensor
    spread: Tensor | None = None

    @property
    def start(self) -> Tensor:
        """`value` in unconstrained space, with the shape of moves."""
        unconstrained: Tensor = transform_to(self.constraint).inv(self.value)
        return unconstrained

    def moved(self, move: Tensor) -> Tensor:
        """Return the parameter after an unconstrained `move`."""
        transform = transform_to(self.constraint)
        if self.spread is not None:
            return self.value + self.spread * move
        if self.name == "scale_tril":
            return self.value @ transform(move)  # the identity for a move of 0
        result: Tensor = transform(self.start + move)
        return result

    def move_to(self, gaussian: Gaussian) -> Tensor:
        """Return the move that brings the parameter, if the family allows, to that of `gaussian`."""
        target = self._target(gaussian).to(self.value.dtype)
        transform = transform_to(self.constraint)
        if self.spread is not None:
            return (target - self.value) / self.spread
        if self.name == "scale_tril":
            move: Tensor = transform.inv(torch.linalg.solve_triangular(self.value, target, upper=False))
            return move
        return (transform.inv(target) - self.start).expand(self.start.shape)

    def _target(self, gaussian: Gaussian) -> Tensor:
        loc, scale = gaussian.loc, gaussian.scale
        of_components = self.value.dim() > loc.dim()
        if self.name == "loc":
            if not of_components:
                return loc
            return loc.unsqueeze(-2) + _JITTER * scale.unsqueeze(-2) * torch.randn_like(self.value)
        if self.name == "scale":
            return (scale.unsqueeze(-2) if of_components else scale).expand(self.value.shape)
        if self.name == "scale_tril":
            return scale_tril_of(gaussian.precision)
        if self.name == "cov_diag":
            return scale.square()
        if self.name == "cov_factor":
            return _factor(gaussian, self.value)
        return torch.zeros_like(self.value) if self.name == "logits" else self.value


def _factor(gaussian: Gaussian, like: Tensor) -> Tensor:
    """Return W `[N, D, rank]` for which W Wᵀ + diag(1 / precision_ii) comes close to the covariance."""
    scale = gaussian.scale.unsqueeze(-1)
    L = scale_tril_of(gaussian.precision) / scale
    values, vectors = torch.linalg.eigh(L @ L.mT)
    factor = scale * vectors * (values - 1).clamp(min=0.01).sqrt().unsqueeze(-2)  # W = 0 would have no gradient
    rank = min(like.shape[-1], factor.shape[-1])
    target = torch.zeros_like(like)
    target[..., :rank] = factor.flip(-1)[..., :rank].to(like.dtype)
    return target


def opened(q: Any, frame: Frame | None = None) -> tuple[list[Free], Callable[[Iterator[Tensor]], Any]]:
    """Return the parameters of `q`, expanded to its batch, and a function that builds a `q` from new values.

    Args:
        q: a distribution.
        frame: units of a flow, `Frame.of` 100 draws by default.

    Raises:
        NotImplementedError: if q's family has no parameters that can be optimized.
    """
    if isinstance(q, Independent):
        free, build = opened(q.base_dist)
        return free, lambda values: type(q)(build(values), q.reinterpreted_batch_ndims)
    if isinstance(q, MixtureSameFamily):
        weights, build_weights = opened(q.mixture_distribution)
        components, build_components = opened(q.component_distribution)
        return weights + components, lambda values: type(q)(build_weights(values), build_components(values))
    if isinstance(q, AutoregressiveFlow) and q.head is not None:
        return _opened_flow(q, q.head, frame or Frame.of(q, q.sample((100,))))
    if isinstance(q, TransformedDistribution):
        raise NotImplementedError(f"{type(q).__name__} has no parameters to optimize")
    if hasattr(q, "base_dist"):
        return opened(q.base_dist)
    names = [n for n in q.arg_constraints if n in _KEPT or (n in q.__dict__ and n not in _DERIVED)]
    if not names:
        raise NotImplementedError(f"{type(q).__name__} has no parameters to optimize")
    free = [Free(n, q.arg_constraints[n], getattr(q, n), _spread(q, n)) for n in names]
    return free, lambda values: type(q)(**{n: next(values) for n in names}, validate_args=False)


def _spread(q: Any, name: str) -> Tensor | None:
    """Return the unit in which a parameter without bounds moves; None for the others."""
    if name == "cov_factor":
        stddev: Tensor = q.stddev.unsqueeze(-1)
        return stddev
    return q.stddev if name == "loc" else None


def _opened_flow(
    q: AutoregressiveFlow, head: Callable[[Tensor], AutoregressiveFlow], frame: Frame
) -> tuple[list[Free], Callable[[Iterator[Tensor]], AutoregressiveFlow]]:
    """Return a flow's features with a location and scale after it, which features alone reach slowly."""
    center, spread, unit = frame

    def build(values: Iterator[Tensor]) -> AutoregressiveFlow:
        features, loc, scale = next(values), next(values), next(values) / spread

        def moved(features: Tensor) -> AutoregressiveFlow:
            flow = head(features)
            after = AffineTransform(loc - scale * center, scale, event_dim=1, cache_size=1)
            return AutoregressiveFlow.of(features, moved, flow.base_dist, [*flow.transforms, after])

        return moved(features)

    return [
        Free("features", constraints.real, q.features, unit),
        Free("loc", constraints.real, center, spread),
        Free("scale", constraints.positive, spread),
    ], build
