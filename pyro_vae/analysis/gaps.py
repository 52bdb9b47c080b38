"""The inference gap of a guide and its parts (Cremer, Li & Duvenaud 2018)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_vae.analysis.by_name import ByName
from pyro_vae.errors import BadInput, datapoints, one_line, positive_int
from pyro_vae.marginal import ELBO, Estimator
from pyro_vae.marginal.estimator import require_estimator
from pyro_vae.marginal.local import fit_elbo
from pyro_vae.programs.checks import require_match, require_programs, require_tensors
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.density import Latents
from pyro_vae.programs.inference_mode import ordinary
from pyro_vae.programs.memory import rows_in_memory
from pyro_vae.programs.progress import Shares, progress
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.programs.session import for_programs
from pyro_vae.programs.trace import Program, trace

TOLERANCE = 0.3
"""Nats by which the bounds on I(x; z) may differ before N datapoints are too few for it.

The lower bound errs by a third to a half of the difference (Gaussians of 1 to 20 dimensions, I of 2 to 16 nats, N of at
least 300).
"""


@dataclass(frozen=True)
class Gaps(ByName[Tensor]):
    """The parts of log p(x) − ELBO of N datapoints, each in nats, `[N]`.

    Attributes:
        log_px: log p(x).
        elbo: of the guide.
        elbo_best: of the best member of the guide's family.
        approximation_gap: log_px − elbo_best.
        amortization_gap: elbo_best − elbo.
    """

    log_px: Tensor
    elbo: Tensor
    elbo_best: Tensor
    approximation_gap: Tensor
    amortization_gap: Tensor

    def as_json(self) -> dict[str, float]:
        """Return the means over datapoints, and N as `num_data`, for gaps.json."""
        return {name: value.mean().item() for name, value in self.items()} | {"num_data": len(self.elbo)}


def gaps(
    model: Program,
    guide: Program,
    x: Tensor,
    estimator: Estimator,
    y: Tensor | None = None,
    num_steps: int = 300,
    num_samples: int = 200,
    chunk_size: int = 100_000,
) -> Gaps:
    """Split log p(x) − ELBO into an approximation gap and an amortization gap.

    Cremer, Li & Duvenaud (2018), Inference suboptimality in variational autoencoders,
    https://arxiv.org/abs/1801.03558, eq. 5.

    Args:
        model: the generative model.
        guide: a guide with one latent site: a Gaussian, a mixture or a flow. The members of a flow's family are those
            that the guide's networks make from any features (`marginal.local.fit_elbo`).
        x: data, `[N, ...]`.
        estimator: estimates log p(x).
        y: labels of a conditional model, `[N]`.
        num_steps: gradient steps towards each datapoint's best member of the guide's family.
        num_samples: draws that estimate each ELBO.
        chunk_size: pairs (draw, datapoint) in memory at once.

    Raises:
        BadInput: if the guide's family cannot be fitted to single datapoints.
    """
    require_tensors(x, y)
    require_programs(model, guide)
    for name, value in (("num_steps", num_steps), ("num_samples", num_samples), ("chunk_size", chunk_size)):
        positive_int(name, value)
    require_estimator(estimator)
    with for_programs(x):
        x, y = ordinary(x), ordinary(y)
        with fork_rng(x):  # the same draws, checked or not
            require_match(model, guide, x, y)
        latents = Latents.of(model, x, y)
        if len(latents.sites) != 1:
            raise BadInput(f"analysis=gaps needs a guide with one latent site, this one has {len(latents.sites)}")
        if latents.is_constrained:
            raise BadInput("analysis=gaps needs latents on the whole real line: use analysis=surgery")
        rows = rows_in_memory(chunk_size, num_samples, model, x, y)
        log_px = estimator(model, guide, x, y).log_px
        elbo = ELBO(num_samples)(model, guide, x, y).log_px
        parts, best = slices(rows, x, y), []
        with progress(f"fitting the guide's family to each of {datapoints(len(x))}", len(x), "datapoint") as tick:
            for x_n, y_n in parts:
                shares = Shares(tick, len(x_n), num_steps)
                best.append(_best_elbo(latents, model, guide, x_n, y_n, num_steps, num_samples, shares))
        elbo_best = torch.cat(best)
    return Gaps(log_px, elbo, elbo_best, approximation_gap=log_px - elbo_best, amortization_gap=elbo_best - elbo)


def _best_elbo(
    latents: Latents,
    model: Program,
    guide: Program,
    x: Tensor,
    y: Tensor | None,
    num_steps: int,
    num_samples: int,
    on_step: Callable[[], None],
) -> Tensor:
    """Return the ELBO `[N]` of each datapoint's best member of the guide's family."""
    log_joint = latents.log_density(model, x, y)
    with torch.no_grad():
        q = trace(guide, x, y, num_samples=None).nodes[latents.sites[0].name]["fn"]
    try:
        best = fit_elbo(log_joint, q, num_steps, lr=0.1, num_rounds=2, on_step=on_step)
    except (TypeError, NotImplementedError) as error:
        raise BadInput(
            f"analysis=gaps cannot fit a member of this guide's family to a datapoint ({one_line(error)}): use "
            "analysis=surgery, or guide=diagonal or full_covariance"
        ) from error
    with torch.no_grad():
        u = best.sample((num_samples,))
        elbo: Tensor = (log_joint(u) - best.log_prob(u)).double().mean(0)
    return elbo
