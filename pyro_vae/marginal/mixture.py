"""Mixtures of Student-t distributions as proposals, one mixture for each datapoint."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.programs.time_limit import check_time


@dataclass(frozen=True)
class Mixture:
    """A mixture of M Student-t components for each of N datapoints; Gaussian where the degrees of freedom are infinite.

    Attributes:
        log_weights: logs of the components' shares, `[M, N]`; −inf for a component that a datapoint lacks.
        loc: `[M, N, D]`.
        scale_tril: lower triangular, `[M, N, D, D]`.
        df: degrees of freedom, `[N]`.
    """

    log_weights: Tensor
    loc: Tensor
    scale_tril: Tensor
    df: Tensor

    @classmethod
    def single(cls, loc: Tensor, scale_tril: Tensor, df: float) -> Mixture:
        """Return mixtures of one component: loc `[N, D]` and scale_tril `[N, D, D]`."""
        return cls(torch.zeros_like(loc[None, :, 0]), loc[None], scale_tril[None], torch.full_like(loc[:, 0], df))

    def draw(self, num_samples: int) -> tuple[Tensor, Tensor]:
        """Draw u `[num_samples, N, D]`, with log q(u) in nats, `[num_samples, N]`."""
        if len(self.loc) == 1:  # the noise has the density: no solve is needed
            noise = self._noise(num_samples)
            return self._move(noise, 0), self._log_prob(noise, 0)
        u = self.sample(num_samples)
        return u, self.log_prob(u)

    def sample(self, num_samples: int) -> Tensor:
        """Draw u `[num_samples, N, D]`."""
        noise = self._noise(num_samples)
        if len(self.loc) == 1:
            return self._move(noise, 0)
        shares = self.log_weights.exp().cumsum(0)
        uniform = torch.rand((num_samples, 1, shares.shape[1]), dtype=shares.dtype, device=shares.device)
        component = (uniform * shares[-1] >= shares).sum(1).clamp_max(len(shares) - 1)  # [num_samples, N]
        u = self._move(noise, 0)
        for m in range(1, len(self.loc)):
            u = torch.where((component == m).unsqueeze(-1), self._move(noise, m), u)
        return u

    def log_prob(self, u: Tensor) -> Tensor:
        """Return log q(u) in nats, `[..., N]`, for u `[..., N, D]`."""
        return torch.logsumexp(self.component_log_probs(u), 0)

    def component_log_probs(self, u: Tensor) -> Tensor:
        """Return the logs of each component's share times its density, `[M, ..., N]`."""
        return torch.stack([self._log_prob(self.whiten(u, m), m) + self.log_weights[m] for m in range(len(self.loc))])

    def whiten(self, u: Tensor, m: int) -> Tensor:
        """Return L⁻¹ (u − loc) for component m, `[..., N, D]`."""
        check_time()  # fits to chains do little else
        flat = (u - self.loc[m]).reshape(-1, *self.loc.shape[1:]).permute(1, 2, 0)
        white = torch.linalg.solve_triangular(self.scale_tril[m], flat, upper=False)
        return white.permute(2, 0, 1).reshape(u.shape)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean `[N, D]` and the Cholesky factor `[N, D, D]` of the covariance of the components' spread.

        The spread of a component is L Lᵀ, which is smaller than its covariance where its tails are heavy.
        """
        share = self.log_weights.exp().unsqueeze(-1)
        mean = (share * self.loc).sum(0)
        away = (self.loc - mean).unsqueeze(-1)
        scatter = self.scale_tril @ self.scale_tril.mT + away @ away.mT
        # cholesky_ex: the NaN of one datapoint must not stop the others
        return mean, torch.linalg.cholesky_ex((share.unsqueeze(-1) * scatter).sum(0)).L

    def largest(self) -> Tensor:
        """Return scale_tril `[N, D, D]` of the component with the largest share."""
        rows = torch.arange(self.loc.shape[1], device=self.loc.device)
        return self.scale_tril[self.log_weights.argmax(0), rows]

    def top(self, num_components: int) -> Mixture:
        """Return the mixture of at most `num_components` components: those with the largest shares."""
        log_weights, m = self.log_weights.topk(min(num_components, len(self.loc)), 0)
        rows = torch.arange(self.loc.shape[1], device=self.loc.device)
        return Mixture(log_weights.log_softmax(0), self.loc[m, rows], self.scale_tril[m, rows], self.df)

    def union(self, other: Mixture) -> Mixture:
        """Return the mixture that draws from this one or the other, of the same df, with equal chances."""
        log_weights = torch.cat([self.log_weights, other.log_weights]) - math.log(2)
        loc, scale_tril = torch.cat([self.loc, other.loc]), torch.cat([self.scale_tril, other.scale_tril])
        return Mixture(log_weights, loc, scale_tril, self.df)

    def widened(self, loc: Tensor) -> Mixture:
        """Return the mixture with more components at loc `[m, N, D]`, shaped as the largest one."""
        m = len(loc)
        log_weights = torch.cat([self.log_weights, torch.zeros_like(loc[..., 0])]).log_softmax(0)
        scale_tril = torch.cat([self.scale_tril, self.largest().expand(m, *self.scale_tril.shape[1:])])
        return Mixture(log_weights, torch.cat([self.loc, loc]), scale_tril, self.df)

    def rows(self, index: Tensor) -> Mixture:
        """Return the mixtures of some of the datapoints, without components that none of them has."""
        log_weights = self.log_weights[:, index]
        m = log_weights.isfinite().any(1)
        m[0] = True
        return Mixture(log_weights[m], self.loc[m][:, index], self.scale_tril[m][:, index], self.df[index])

    @classmethod
    def cat(cls, parts: Sequence[Mixture]) -> Mixture:
        """Concatenate the mixtures of several sets of datapoints, which may have different numbers of components."""
        M = max(len(part.loc) for part in parts)
        log_weights, loc, scale_tril = (
            torch.cat([part._of(name, M) for part in parts], 1) for name in ("log_weights", "loc", "scale_tril")
        )
        return cls(log_weights, loc, scale_tril, torch.cat([part.df for part in parts]))

    def _of(self, name: str, num_components: int) -> Tensor:
        """Return a parameter, as that of a mixture with more components: copies of the first, with a share of 0."""
        value: Tensor = getattr(self, name)
        lacking = value[:1].expand(num_components - len(value), *value.shape[1:])
        return torch.cat([value, torch.full_like(lacking, -math.inf) if name == "log_weights" else lacking])

    def _noise(self, num_samples: int) -> Tensor:
        """Draw from a component with location 0 and scale 1."""
        noise = torch.randn((num_samples, *self.loc.shape[1:]), dtype=self.loc.dtype, device=self.loc.device)
        heavy = self.df.isfinite()
        if heavy.any():  # t = normal · √(df / χ²)
            df = torch.where(heavy, self.df, 1.0)
            chi2 = 2 * torch._standard_gamma((0.5 * df).expand(noise.shape[:2]))
            noise = noise * torch.where(heavy, (df / chi2).sqrt(), 1.0).unsqueeze(-1)
        return noise

    def _move(self, noise: Tensor, m: int) -> Tensor:
        return self.loc[m] + (self.scale_tril[m] @ noise.permute(1, 2, 0)).permute(2, 0, 1)

    def _log_prob(self, noise: Tensor, m: int) -> Tensor:
        """Return the log-density of component m where L⁻¹ (u − loc) = noise."""
        D, df, square = self.loc.shape[-1], self.df, noise.square().sum(-1)
        log_det = self.scale_tril[m].diagonal(dim1=-2, dim2=-1).log().sum(-1)
        normal = -0.5 * (square + D * math.log(2 * math.pi))
        if not df.isfinite().any():
            return normal - log_det
        exact = df.double()
        constant = torch.lgamma(0.5 * (exact + D)) - torch.lgamma(0.5 * exact) - 0.5 * D * (exact * math.pi).log()
        student_t = constant.to(square) - 0.5 * (df + D) * torch.log1p(square / df)
        return torch.where(df.isfinite(), student_t, normal) - log_det
