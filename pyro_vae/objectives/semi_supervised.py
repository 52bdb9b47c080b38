"""The bound of a semi-supervised model, which sums over the unknown classes."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.errors import Incompatible, positive_int, within
from pyro_vae.objectives.latents import latents, needs_density, needs_reparameterized
from pyro_vae.objectives.objective import Bound, Objective
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.trace import Program, log_prob, trace, unscaled_log_prob


class SemiSupervised(Objective):
    """J^α of Kingma, Rezende, Mohamed & Welling (2014), https://arxiv.org/abs/1406.5298, eqs. 6–9.

    The loss is −Σ_labelled L(x, y) − Σ_unlabelled [Σ_y q(y | x) L(x, y) + H(q(y | x))] − α N mean_labelled log q(y|x).
    L(x, y) ≤ log p(x, y) is estimated by draws z ~ q(z | x, y) for each class; N and the mean are those of the batch.
    The bound, without the last term, is that of `pyro.infer.TraceEnum_ELBO`; this one also compiles.

    The programs are called with labels y `[N]`, −1 where unknown. The guide has a site `y`, all of whose mass is at
    known labels, with `infer={"enumerate": "parallel", "classifier": q}`, where q is q(y | x), as `SemiSupervisedVAE`.

    Args:
        alpha: weight α of the classifier's log-likelihood.
        num_particles: draws of z for each datapoint and class.

    Raises:
        BadInput: if alpha is negative or not finite, or num_particles is not a positive integer.

    Example:
        >>> from pyro_vae.guides import Diagonal
        >>> from pyro_vae.likelihoods import Bernoulli
        >>> from pyro_vae.networks import MLP
        >>> from pyro_vae.priors import StandardNormal
        >>> from pyro_vae.vae import SemiSupervisedVAE
        >>> vae = SemiSupervisedVAE.build([12], 2, MLP([8]), StandardNormal, Bernoulli, Diagonal, num_classes=3)
        >>> y = torch.full((len(x),), -1)  # no label is known
        >>> SemiSupervised(alpha=1.0).bound(vae.model, vae.guide, x, y).loss.shape
        torch.Size([])
    """

    name: ClassVar[str] = "semi_supervised"
    num_particles: int

    def __init__(self, alpha: float = 0.1, num_particles: int = 1) -> None:
        positive_int("num_particles", num_particles)
        super().__init__(num_particles, max_plate_nesting=1)  # type: ignore[no-untyped-call]
        self.alpha = within("alpha", alpha, low=0)

    def check(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> str | None:
        """Reject programs without classes, and a q(z | x, y) that has no density or is not reparameterized."""
        sites = latents(model, guide, x, y)
        with torch.no_grad(), poutine.block():
            draws = trace(guide, *next(slices(2, x, y)), num_samples=1)
        if sites.pop("y", None) is None or "classifier" not in (draws.nodes["y"]["infer"] or {}):
            raise Incompatible(
                f"objective={self.name} needs a model of classes", "use conditioning=semi_supervised and labels"
            )
        needs_density(self.name, sites)
        needs_reparameterized(self.name, sites)
        return None

    def for_validation(self, num_particles: int) -> Objective:
        """Return the bound without the classifier's term."""
        return SemiSupervised(alpha=0.0, num_particles=num_particles)

    def bound(self, model: Program, guide: Program, x: Tensor, y: Tensor | None = None, **kwargs: Any) -> Bound:
        """Evaluate the bound on a batch x `[N, *data_shape]`, y `[N]`."""
        K = self.num_particles
        enumerated = poutine.enum(guide, first_available_dim=-3)
        draws = trace(enumerated, x, y, num_samples=K)
        joint = trace(poutine.replay(model, trace=draws), x, y, num_samples=K)
        log_q, log_p = log_prob(draws, K, x), log_prob(joint, K, x)  # [C, K, N]
        q_y = unscaled_log_prob(draws.nodes["y"]).exp()  # [C, 1, N]
        possible = q_y > 0  # log 0 - log 0 at other classes than the label

        def expectation(value: Tensor) -> Tensor:
            return (q_y * torch.where(possible, value, 0.0)).sum(0).mean(0).sum()

        elbo = expectation(log_p - log_q)
        log_likelihood = expectation(unscaled_log_prob(joint.nodes["x"])).detach()
        return Bound(-elbo - self._classification(draws.nodes["y"], y), elbo.detach(), log_likelihood)

    def _classification(self, site: Any, y: Tensor | None) -> Tensor | float:
        """Return α N mean_labelled log q(y | x), 0 without labels."""
        if not self.alpha or y is None:
            return 0.0
        known = y >= 0
        log_q_y: Tensor = site["infer"]["classifier"].log_prob(y.clamp(min=0))
        return self.alpha * len(y) * torch.where(known, log_q_y, 0.0).sum() / known.sum().clamp(min=1)
