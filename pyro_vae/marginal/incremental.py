"""Components added to a proposal where draws from it have the largest weights."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from pyro_vae.marginal.laplace import newton
from pyro_vae.marginal.mixture import Mixture
from pyro_vae.marginal.posterior import Posteriors
from pyro_vae.marginal.proposal import Proposal

NUM_ROUNDS = 3
"""Rounds of new draws."""

NUM_ADDED = 4
"""Components added in each round."""

NUM_DRAWS = 1000
"""Draws of each datapoint in a round."""

SHARE = 0.05
"""Share of a new component, until all shares are fitted."""

LONGEST = 2.0
"""Standard deviation of a new component in each direction, at most, in units of the largest of the old ones."""

LENGTHS = (0.0, 0.1, 0.3, 1.0)
"""Lengths of the Newton step from a draw, of which the best is taken: most of its coordinates are off by chance."""


def incremental(p: Posteriors, proposal: Proposal) -> Proposal:
    """Add components to the proposal where it is smallest in comparison with the posterior, as curved ridges need.

    Incremental mixture importance sampling: Raftery & Bao (2010), Estimating and projecting trends in HIV/AIDS
    generalized epidemics using incremental mixture importance sampling, Biometrics 66(4). Each new component lies near
    the draw with the largest weight, and has the shape of the curvature there, which needs no other draws nearby.
    """
    for _ in range(NUM_ROUNDS):
        u, log_w = proposal.draw(p, NUM_DRAWS)
        log_joint = log_w + proposal.log_density(p, u)
        q = proposal.q
        for _ in range(NUM_ADDED):
            q = _with_component(p, q, u, log_joint - replace(proposal, q=q).log_density(p, u))
        proposal = replace(proposal, q=q)
        proposal = proposal.reweighted(u, log_joint - proposal.log_density(p, u))
    return proposal


def _with_component(p: Posteriors, q: Mixture, u: Tensor, log_w: Tensor) -> Mixture:
    """Return the mixture with one more component, near the draw u `[K, N, D]` with the largest weight `[K, N]`."""
    rows = torch.arange(len(p), device=u.device)
    start = u[log_w.nan_to_num(nan=-math.inf).argmax(0), rows]
    longest = LONGEST * q.scale_tril.square().sum(-1).amax((0, -1)).sqrt()
    _, gradient = p.value_and_grad(start.unsqueeze(0))
    scale_tril, step, _ = newton(p.log_joint, start, gradient.squeeze(0), longest.square().reciprocal())
    tried = start + u.new_tensor(LENGTHS)[:, None, None] * step
    loc = tried[p.log_prob(tried).nan_to_num(nan=-math.inf).argmax(0), rows]
    log_weights = torch.cat([q.log_weights + math.log(1 - SHARE), torch.full_like(q.log_weights[:1], math.log(SHARE))])
    return Mixture(log_weights, torch.cat([q.loc, loc[None]]), torch.cat([q.scale_tril, scale_tril[None]]), q.df)
