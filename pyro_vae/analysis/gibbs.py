"""Imputation by Metropolis within Gibbs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.programs import notes
from pyro_vae.programs.missing import X_MIS
from pyro_vae.programs.trace import Program, log_prob, trace

State = dict[str, Tensor]
"""Values of the latents by site."""


def x_given_latents(nodes: Any, mean: bool) -> Tensor:
    """Return x, drawn given the latents in a trace: from p(x | z), or what the site `x_mis` holds."""
    if X_MIS in nodes:
        drawn: Tensor = nodes[X_MIS]["value"]
        return drawn
    given_z = nodes["x"]["fn"]
    return given_z.mean if mean else given_z.sample()


def chain(
    model: Program,
    guide: Program,
    x: Tensor,
    observed: Tensor,
    y: Tensor | None,
    *,
    num_steps: int,
    mean: bool,
    on_step: Callable[[], None],
    accepts_nan: bool,
) -> Tensor:
    """Run independent chains, one for each row, and return their last states."""

    def run(program: Program, z: State | None = None) -> Any:
        """Trace a program, conditioned on the latents z if given."""
        seen = torch.where(observed, x, torch.nan) if accepts_nan else x
        return trace(program if z is None else poutine.condition(program, data=z), seen, y, num_samples=None)

    def density(run: Any) -> Tensor:
        return log_prob(run, 1, x)[0]

    start = run(poutine.uncondition(model))
    x, num_accepted = torch.where(observed, x, start.nodes["x"]["value"]), 0.0
    z: State = {name: start.nodes[name]["value"] for name in start.stochastic_nodes if name not in ("x", "mask")}
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
        x_new, x_old = (x_given_latents(p.nodes, last) for p in (of_new, of_old))
        x = torch.where(observed, x, _choose(accepted, x_new, x_old))
        on_step()
    rate = num_accepted / (num_steps - num_steps // 2)
    if rate < 0.05:
        notes.warn(
            f"chains moved in {100 * rate:.1f} % of their steps, because the guide is far from the posterior: raise "
            "num_steps, and see whether the draws change"
        )
    return x


def _choose(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(accepted.reshape(-1, *[1] * (new.ndim - 1)), new, old)
