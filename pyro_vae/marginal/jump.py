"""Jumps of Markov chains between modes."""

from __future__ import annotations

import torch

from pyro_vae.marginal.hmc import ChainState, Path
from pyro_vae.marginal.mixture import Mixture


def jump(q: Mixture, path: Path, state: ChainState) -> ChainState:
    """Let each chain jump to a draw from q, by Metropolis and Hastings' rule, so that the posterior stays invariant.

    Local moves followed by such independent proposals: Tierney (1994), Markov chains for exploring posterior
    distributions, Annals of Statistics 22(4), §2.4. Chains move between all modes that q covers.
    """
    u, log_q = q.draw(len(state.u))
    new = ChainState.at(path, u)
    log_ratio = new.joint - log_q - (state.joint - q.log_prob(state.u))
    return state.where(torch.rand_like(log_ratio).log() < log_ratio, new)
