"""Imputation of missing values by draws from their posterior."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.errors import BadInput, datapoints, positive_int, true_false
from pyro_vae.marginal import Importance
from pyro_vae.programs.checks import require_programs, require_tensors
from pyro_vae.programs.chunks import require_room, slices
from pyro_vae.programs.memory import rows_in_memory
from pyro_vae.programs.progress import Shares, progress
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.programs.session import for_programs
from pyro_vae.programs.trace import Program, log_prob, trace

CHAINS_AT_ONCE = 4096

State = dict[str, Tensor]
"""Values of the latents by site."""


def impute(
    model: Program,
    guide: Program,
    x: Tensor,
    observed: Tensor,
    y: Tensor | None = None,
    *,
    num_samples: int = 10,
    num_steps: int = 100,
    mean: bool = False,
) -> Tensor:
    """Draw the missing part of x from p(x_mis | x_obs): `[num_samples, N, ...]`, equal to x where it is observed.

    Each draw comes from a separate Markov chain, Metropolis within Gibbs: z' ~ q(z | x) is accepted with probability
    min(1, w(z') / w(z)), where w(z) = p(x, z) / q(z | x); then x_mis ~ p(x_mis | z). The chains converge to the model's
    p(x_mis | x_obs) for any guide. They start at draws from the prior and accept every proposal in the first half of
    the steps (pseudo-Gibbs, which forgets the start sooner). A warning tells if chains hardly move.

    Mattei & Frellsen (2018), Leveraging the exact likelihood of deep latent variable models,
    https://arxiv.org/abs/1802.04826, algorithm 2; pseudo-Gibbs: Rezende, Mohamed & Wierstra (2014),
    https://arxiv.org/abs/1401.4082, appendix F.

    Args:
        model: Pyro program with its datapoints in a plate at dim −1; the entries of its site `x` are independent given
            z.
        guide: proposal for the latent sites.
        x: data, `[N, ...]`; missing entries may have any value.
        observed: whether each entry of x is observed, `[N, ...]`.
        y: labels of a conditional model, `[N]`.
        num_samples: chains per datapoint.
        num_steps: steps per chain.
        mean: return means of p(x_mis | z) instead of draws, whose average has less noise.

    Raises:
        BadInput: if a number is out of range.
        NoEvidence: if the guide is a point, which cannot propose.
    """
    positive_int("num_samples", num_samples)
    positive_int("num_steps", num_steps)
    true_false("mean", mean)
    require_tensors(x, y)
    require_programs(model, guide)
    require_room(num_samples * x.numel(), x, f"num_samples={num_samples} takes")
    parts = []
    with for_programs(x), torch.no_grad():
        with fork_rng(x):  # the same draws, checked or not
            known = torch.where(observed[:2], x[:2], torch.full_like(x[:2], 0.5))
            Importance(1).check(model, guide, known, y)  # rejects points
            names = trace(model, *next(slices(1, x, y)), num_samples=None).nodes
        if "x" not in names:
            raise BadInput("the model has no site x: name the observed site, whose values are imputed, x")
        n = rows_in_memory(CHAINS_AT_ONCE, num_samples, model, x, y)
        with progress(f"imputing {datapoints(len(x))}", len(x), "datapoint") as tick:
            for rows in slices(n, x, observed, y):
                shares = Shares(tick, len(rows[0]), num_steps)
                chains = [None if part is None else part.repeat(num_samples, *[1] * (part.ndim - 1)) for part in rows]
                draws = _chain(model, guide, *chains, num_steps=num_steps, mean=mean, on_step=shares)  # type: ignore[arg-type]
                parts.append(draws.unflatten(0, (num_samples, -1)))
    return torch.cat(parts, 1)


def _chain(
    model: Program,
    guide: Program,
    x: Tensor,
    observed: Tensor,
    y: Tensor | None,
    *,
    num_steps: int,
    mean: bool,
    on_step: Callable[[], None],
) -> Tensor:
    """Run independent chains, one for each row, and return their last states."""

    def run(program: Program, z: State | None = None) -> Any:
        """Trace a program, conditioned on the latents z if given."""
        return trace(program if z is None else poutine.condition(program, data=z), x, y, num_samples=None)

    def density(run: Any) -> Tensor:
        return log_prob(run, 1, x)[0]

    start = run(poutine.uncondition(model))
    x, num_accepted = torch.where(observed, x, start.nodes["x"]["value"]), 0.0
    z: State = {name: start.nodes[name]["value"] for name in start.stochastic_nodes if name != "x"}
    for step in range(num_steps):
        new = run(guide)
        proposal = {name: new.nodes[name]["value"] for name in z}
        of_new, of_old = run(model, proposal), run(model, z)
        log_ratio = density(of_new) - density(new) - (density(of_old) - density(run(guide, z)))
        accepted = torch.rand_like(log_ratio).log() < log_ratio
        if step < num_steps // 2:
            accepted = torch.ones_like(accepted)
        else:
            num_accepted += accepted.double().mean().item()
        z = {name: _choose(accepted, proposal[name], z[name]) for name in z}
        last = mean and step == num_steps - 1
        x_new, x_old = (p.nodes["x"]["fn"].mean if last else p.nodes["x"]["fn"].sample() for p in (of_new, of_old))
        x = torch.where(observed, x, _choose(accepted, x_new, x_old))
        on_step()
    rate = num_accepted / (num_steps - num_steps // 2)
    if rate < 0.05:
        warnings.warn(
            f"chains moved in {100 * rate:.1f} % of their steps, because the guide is far from the posterior: raise "
            "num_steps, and see whether the draws change",
            stacklevel=3,
        )
    return x


def _choose(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(accepted.reshape(-1, *[1] * (new.ndim - 1)), new, old)
