"""ELBO surgery: the parts of the ELBO, and the information in the latents."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.analysis.by_name import ByName
from pyro_vae.analysis.gaps import TOLERANCE
from pyro_vae.errors import BadInput, datapoints, positive_int
from pyro_vae.marginal.prior import prior_of
from pyro_vae.programs.checks import require_match, require_programs, require_tensors
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.density import Latents
from pyro_vae.programs.memory import rows_in_memory
from pyro_vae.programs.missing import X_MIS
from pyro_vae.programs.progress import Shares, Tick, progress
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.programs.session import for_programs
from pyro_vae.programs.trace import Program


@dataclass(frozen=True)
class Surgery(ByName[float]):
    """The parts of the ELBO, as means over N datapoints in nats.

    Attributes:
        elbo: reconstruction − kl.
        reconstruction: E_q log p(x | z).
        kl: to the prior, the sum of mutual_information and marginal_kl.
        mutual_information: I(x; z) under q.
        mutual_information_at_limit: whether N datapoints are too few for I(x; z), so that mutual_information is a lower
            bound of it, and marginal_kl an upper bound.
        marginal_kl: KL(q(z) ‖ p(z)).
        active_units: number of dimensions whose E[z | x] has a variance over the data, within a label, above 0.01
            (Burda et al. 2016, https://arxiv.org/abs/1509.00519, §5.2).
        latent_dim: number of dimensions of z.
        num_data: N.
    """

    elbo: float
    reconstruction: float
    kl: float
    mutual_information: float
    mutual_information_at_limit: bool
    marginal_kl: float
    active_units: int
    latent_dim: int
    num_data: int

    def as_json(self) -> dict[str, float]:
        """Return all attributes, for surgery.json."""
        return dict(self)

    @property
    def is_collapsed(self) -> bool:
        """Whether most latent dimensions do not depend on x. False where the data cannot tell.

        They cannot with fewer than 10 datapoints, or when nearly every datapoint has different covariates.
        """
        if self.mutual_information_at_limit and self.mutual_information <= 0.1:
            return False
        informative = self.active_units > self.latent_dim / 2 and self.mutual_information > 0.1
        return self.num_data >= 10 and not informative


def surgery(
    model: Program,
    guide: Program,
    x: Tensor,
    y: Tensor | None = None,
    num_samples: int = 10,
    chunk_size: int = 100_000,
) -> Surgery:
    """Split the ELBO into its parts: means over the data, in nats (Hoffman & Johnson 2016, ELBO surgery).

    ELBO = reconstruction − mutual_information − marginal_kl, where q(z) = (1/N) Σ_n q(z | x_n). For a conditional model
    all parts are given y: the prior is p(z | y), and q(z | y) is the mean over the datapoints with that y.

    With N datapoints, I(x; z) cannot exceed log N, and is a lower bound in expectation. Leaving out each datapoint's
    own posterior from its q(z) gives an upper bound instead (Poole et al. 2019, On variational bounds of mutual
    information, https://arxiv.org/abs/1905.06922, §2.2). If the two differ by more than `TOLERANCE` nats, N datapoints
    are too few for I(x; z).

    Args:
        model: the generative model.
        guide: the guide.
        x: data, `[N, ...]`.
        y: labels `[N]` or covariates `[N, M]` of a conditional model.
        num_samples: draws of z per datapoint.
        chunk_size: pairs (draw, datapoint) in memory at once.

    Raises:
        BadInput: if a number is out of range, or the model has a missingness model.

    Example:
        >>> parts = surgery(vae.model, vae.guide, x)
        >>> list(parts)[:5]
        ['elbo', 'reconstruction', 'kl', 'mutual_information', 'mutual_information_at_limit']
    """
    require_tensors(x, y)
    require_programs(model, guide, y)
    for name, value in (("num_samples", num_samples), ("chunk_size", chunk_size)):
        positive_int(name, value)
    N, labels = len(x), torch.zeros(len(x), device=x.device) if y is None else y
    if labels.ndim > 1:  # covariates
        labels = labels.unique(dim=0, return_inverse=True)[1]
    with for_programs(x), torch.no_grad():
        with fork_rng(x):  # the same draws, checked or not
            require_match(model, guide, x, y)
        latents = Latents.of(model, x, y)
        if any(site.name == X_MIS for site in latents.sites):
            raise BadInput(
                "analysis=surgery is about z alone, but with a missingness model the missing entries of x are latent, "
                "too: use analysis=gaps"
            )
        n = rows_in_memory(chunk_size, num_samples, model, x, y)
        u = latents.draw(guide, x, y, num_samples=num_samples)  # [S, N, D]
        log_prior = latents.log_density(prior_of(model), x, y)(u)
        log_joint = torch.cat(
            [
                latents.log_density(model, x_n, y_n)(u_n.transpose(0, 1))
                for x_n, y_n, u_n in slices(n, x, y, u.transpose(0, 1))
            ],
            1,
        )
        log_likelihood = log_joint - log_prior
        own = latents.log_density(guide, x, y)(u)
        log_aggregate, log_others = (torch.empty_like(own, dtype=torch.float64) for _ in range(2))
        with progress(f"ELBO surgery of {datapoints(N)}", N, "datapoint") as tick:
            for label in labels.unique():
                alike = labels == label
                y_alike = None if y is None else y[alike]
                log_aggregate[:, alike], log_others[:, alike] = _log_aggregate(
                    latents, guide, x[alike], y_alike, u[:, alike], chunk_size, tick
                )
        active = _active_units(latents, guide, x, y, labels, chunk_size)
    reconstruction, kl = log_likelihood.double().mean(), (own - log_prior).double().mean()
    return Surgery(
        elbo=(reconstruction - kl).item(),
        reconstruction=reconstruction.item(),
        kl=kl.item(),
        mutual_information=(own.double() - log_aggregate).mean().item(),
        mutual_information_at_limit=not (log_aggregate - log_others).mean().item() < TOLERANCE,
        marginal_kl=(log_aggregate - log_prior.double()).mean().item(),
        active_units=active,
        latent_dim=latents.dim,
        num_data=N,
    )


def _log_aggregate(
    latents: Latents, guide: Program, x: Tensor, y: Tensor | None, u: Tensor, chunk_size: int, tick: Tick
) -> tuple[Tensor, Tensor]:
    """Return log q(z) at draws u `[S, N, D]`, with and without the posterior that a draw comes from.

    Both have shape `[S, N]`; the second is −∞ for N = 1.
    """
    S, N, D = u.shape
    log_guide, shares = latents.log_density(guide, x, y), Shares(tick, N, S * N)
    rows = max(1, chunk_size // N)
    of_all, of_others = [], []
    for part, index in zip(u.reshape(-1, 1, D).split(rows), torch.arange(N).repeat(S).split(rows), strict=True):
        each = log_guide(part.expand(-1, N, -1)).double()
        of_all.append(each.logsumexp(1))
        each[torch.arange(len(each)), index] = -math.inf
        of_others.append(each.logsumexp(1))
        shares(len(part))
    return (
        torch.cat(of_all).reshape(S, N) - math.log(N),
        torch.cat(of_others).reshape(S, N) - math.log(max(1, N - 1)),
    )


def _active_units(
    latents: Latents, guide: Program, x: Tensor, y: Tensor | None, labels: Tensor, chunk_size: int
) -> int:
    """Count the dimensions of u whose E[u | x] has a variance over x, within a label, above 0.01.

    It is estimated by the covariance of two means of 100 draws each: the noise of the draws would add another 0.01 to
    the variance of one mean.
    """
    parts = list(slices(max(1, chunk_size // 100), x, y))
    one, other = (
        torch.cat([latents.draw(guide, x_n, y_n, num_samples=100).mean(0) for x_n, y_n in parts]) for _ in range(2)
    )
    squares, groups = torch.zeros_like(one[0]), labels.unique()
    for label in groups:
        these, those = one[labels == label], other[labels == label]
        squares += ((these - these.mean(0)) * (those - those.mean(0))).sum(0)
    variance = squares / max(1, len(x) - len(groups))
    return int((variance > 0.01).sum())
