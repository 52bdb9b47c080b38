"""Markov chains between the modes of each posterior, and the mixtures fitted to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pyro_vae.marginal.fit_mixture import fit_mixture
from pyro_vae.marginal.hmc import sample_posterior
from pyro_vae.marginal.jump import jump
from pyro_vae.marginal.mixture import Mixture
from pyro_vae.marginal.posterior import Posteriors
from pyro_vae.marginal.proposal import Proposal

SHRINKAGE = 20.0
"""Draws per dimension that the search's covariances count for; posteriors of 20 dimensions need so many."""

NUM_LEAPFROG = 6
"""Leapfrog steps of each transition."""

PILOT = 1000
"""Draws of each datapoint to which the shares of all components are fitted."""


@dataclass(frozen=True)
class Chains:
    """Draws of Markov chains `[T, C, N, D]`, and the modes around which they started `[C, N]`."""

    draws: Tensor
    start: Tensor

    def modes(self, q: Mixture) -> Tensor:
        """Return the component of q that most likely made each draw of the second half, `[T / 2, C, N]`."""
        second = self.draws[len(self.draws) // 2 :]
        return torch.stack([q.component_log_probs(draws).argmax(0) for draws in second])


def run_chains(
    p: Posteriors,
    modes: Proposal,
    q: Mixture,
    num_chains: int,
    num_warmup: int,
    num_draws: int,
    spread: float = 1.0,
    tick: Callable[[], Any] = lambda: None,
) -> Chains:
    """Run HMC chains that start around the modes, each in turn, and jump to draws from q after each transition.

    Args:
        p: the posteriors.
        modes: a proposal with a component for each mode.
        q: see `jump`.
        num_chains: chains for each datapoint.
        num_warmup: transitions that adapt the step sizes.
        num_draws: transitions that follow.
        spread: of the starts around a mode, in standard deviations of its component.
        tick: called after each transition.
    """
    rows = torch.arange(len(p), device=p.x.device)
    start = torch.arange(num_chains, device=rows.device).unsqueeze(1) % modes.num_modes
    loc, scale_tril = modes.q.loc[start, rows], modes.q.scale_tril[start, rows]
    u = loc + spread * (scale_tril @ torch.randn_like(loc).unsqueeze(-1)).squeeze(-1)
    draws, _ = sample_posterior(
        p.value_and_grad, u, scale_tril, num_warmup, num_draws, NUM_LEAPFROG, progress=tick, jump=partial(jump, q)
    )
    return Chains(draws, start)


def fit(p: Posteriors, proposal: Proposal, draws: Tensor, start: Mixture | None = None) -> Proposal:
    """Add a mixture fitted to the draws of chains `[T, C, N, D]`, and fit the shares of all components.

    The proposal's own mixture stays: few draws of many dimensions give worse covariances than the search. The fit
    begins at `start`, by default at this mixture.
    """
    of_chains = fit_mixture(proposal.q if start is None else start, draws.flatten(0, 1), shrinkage=SHRINKAGE)
    fitted = replace(proposal, q=proposal.q.union(of_chains))
    return fitted.reweighted(*fitted.draw(p, PILOT))
