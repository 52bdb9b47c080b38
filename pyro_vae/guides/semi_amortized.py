"""The amortized guide improved by a few steps on each datapoint's ELBO."""

from __future__ import annotations

import math

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from pyro_vae.errors import BadInput, Incompatible, positive, positive_int
from pyro_vae.guides.guide import Guide, LogJoint
from pyro_vae.networks.initialization import Heads


class SemiAmortized(Guide):
    """q(z | x) = N(z; μ, diag σ²) where (μ, log σ) start at the encoder's and climb L = E_q[log p(x, z)] + H(q).

    Kim et al. (2018), Semi-amortized variational autoencoders, https://arxiv.org/abs/1802.02550, algorithm 1: the
    gradient of the training objective goes through the steps, to the encoder and to the model. The steps are those of
    the natural gradient, μ += η σ² ∂L/∂μ and log σ += η/2 ∂L/∂log σ, so that η has no unit; they are limited to σ in
    μ and 1 in log σ. The expectation is over fixed points with the mean and the variances of N(0, I): q is a
    deterministic function of x.

    Args:
        num_features: width of the encoder's output.
        latent_dim: D.
        num_steps: number of gradient steps, each of which evaluates the model and its gradient at num_particles points.
        step_size: η.
        num_particles: S, even: points z = μ ± σ ε for the expectation; exact for quadratic log p(x, z) if S ≥ 2D.

    Raises:
        BadInput: if an option is out of range, or when called without `log_joint`.

    Example:
        >>> import torch
        >>> log_joint = lambda z: -(z - 1).square().sum(-1) / 2  # the posterior is N(1, I)
        >>> q = SemiAmortized(8, 3, num_steps=20)(torch.zeros(5, 8), log_joint)
        >>> bool((q.mean - 1).abs().max() < 0.01)
        True
    """

    needs_log_joint = True
    noise: Tensor

    def __init__(
        self, num_features: int, latent_dim: int, num_steps: int = 5, step_size: float = 0.5, num_particles: int = 4
    ) -> None:
        super().__init__()
        self.num_steps = positive_int("num_steps", num_steps)
        self.step_size = positive("step_size", step_size)
        if positive_int("num_particles", num_particles) % 2:
            raise BadInput(f"num_particles={num_particles} must be even: the points come in pairs ±ε")
        self.loc_log_scale = Heads(num_features, latent_dim)
        self.register_buffer("noise", _antithetic_points(num_particles, latent_dim))

    def forward(self, h: Tensor, log_joint: LogJoint | None = None) -> TorchDistributionMixin:
        """Return q(z | x) for features `[..., num_features]`: batch_shape `[...]`, event_shape `[latent_dim]`."""
        if log_joint is None:
            raise Incompatible(
                "guide=semi_amortized needs a single stochastic layer", "set latent_dim to a single number"
            )
        noise = self.noise.reshape(-1, *[1] * (h.dim() - 1), self.noise.shape[-1])

        def elbo(loc: Tensor, log_scale: Tensor) -> Tensor:
            z = loc + log_scale.exp() * noise
            return (log_joint(z).mean(0) + log_scale.sum(-1)).sum()

        loc, log_scale = self.loc_log_scale(h).chunk(2, dim=-1)
        for _ in range(self.num_steps):
            grad_loc, grad_log_scale = torch.func.grad(elbo, argnums=(0, 1))(loc, log_scale)
            scale = log_scale.exp()
            loc = loc + scale * (self.step_size * scale * grad_loc).clamp(-1, 1)
            log_scale = log_scale + (0.5 * self.step_size * grad_log_scale).clamp(-1, 1)
        return dist.Normal(loc, log_scale.exp()).to_event(1)


def _antithetic_points(num_points: int, dim: int) -> Tensor:
    """Return ±ε `[num_points, dim]` with unit variances, uncorrelated in every block of num_points / 2 dimensions."""
    n = num_points // 2
    generator = torch.Generator().manual_seed(0)  # the same points in every run
    blocks = torch.randn(-(-dim // n), n, n, generator=generator, dtype=torch.float64)
    points = math.sqrt(n) * torch.cat(list(torch.linalg.qr(blocks).Q), dim=-1)[:, :dim]
    return torch.cat([points, -points]).to(torch.get_default_dtype())
