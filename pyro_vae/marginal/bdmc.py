"""Bidirectional Monte Carlo: lower and upper bounds on log p(x) of simulated data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.errors import BadInput
from pyro_vae.marginal.ais import AIS
from pyro_vae.marginal.estimator import Progress
from pyro_vae.marginal.evidence import LogEvidence
from pyro_vae.programs.density import Latents
from pyro_vae.programs.trace import Program, is_deterministic, mask_of, random_sites, trace


def simulate(model: Program, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Draw as many datapoints from the model as x has, with their exact posterior draws u `[N, D]`.

    In a draw (z, x) from the model, z is a draw from p(z | x).

    Raises:
        BadInput: if the model observes more than one site, something other than x, or only part of x.
    """
    latents = Latents.of(model, x, y)
    with torch.no_grad():
        sites = random_sites(trace(model, x, y, num_samples=1))
        observed = [name for name, site in sites.items() if site["is_observed"]]
        if len(observed) != 1:
            raise BadInput(f"bdmc simulates models that observe one site; this one observes {', '.join(observed)}")
        (name,) = observed
        if mask_of(sites[name]) is not True:
            raise BadInput(f"site {name} of the model is masked, but bdmc simulates complete data: use estimator=ais")
        value = sites[name]["value"]
        if value.numel() != x.numel() or not value.reshape(x.shape).to(x).allclose(x, equal_nan=True):
            raise BadInput(
                f"site {name} of the model does not observe x itself, which bdmc simulates: use estimator=ais"
            )
        random = poutine.block(model, hide_fn=is_deterministic)
        draws = trace(poutine.uncondition(random), x, y, num_samples=1)
        simulated: Any = draws.nodes[name]["value"]
        return simulated.reshape(x.shape), latents.pack(draws).squeeze(0)


class BDMC(AIS):
    """Bounds log p̂_lower ≤ log p(x) ≤ log p̂_upper in expectation, on data drawn from the model.

    Grosse, Ghahramani & Adams (2015), https://arxiv.org/abs/1511.02543: AIS bounds log p(x) from below; reverse AIS,
    from the exact posterior draw that came with x, bounds it from above. The `gap` limits the error of both, and
    therefore of AIS with these settings on real data, if the model fits them. `log_px` is the lower bound; `extra`
    holds `log_px_upper`, `gap` and `acceptance`. Only the number and shape of x are used.
    Arguments and errors are those of `AIS`.

    Example:
        >>> evidence = BDMC(num_samples=4, num_temperatures=10, start="guide")(vae.model, vae.guide, x[:2])
        >>> evidence.extra["gap"].mean() < 1
        tensor(True)
    """

    name = "bdmc"
    simulates = True

    def estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """Compute the bounds for as many simulated datapoints as x `[N, ...]` has."""
        simulated, u = simulate(model, x, y)
        evidence = self.annealed(model, guide, simulated, y, progress, u)
        gap = evidence.extra["log_px_upper"] - evidence.log_px
        return replace(evidence, extra={**evidence.extra, "gap": gap})
