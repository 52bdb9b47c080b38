"""The log-densities of a program at given latents, and a check that they are functions of these."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pyro_vae.errors import BadInput
from pyro_vae.programs.random_state import seeded
from pyro_vae.programs.trace import Program, random_sites, trace, unscaled_log_prob


def require_repeatable(role: str, program: Program, x: Tensor, y: Tensor | None, needed_by: str) -> None:
    """Check that a program has the same log-densities at the same latents each time, in the mode it is in.

    Args:
        role: `model` or `guide`.
        program: the program.
        x: data `[N, ...]`.
        y: labels, or None.
        needed_by: what traces it twice.

    Raises:
        BadInput: if it has not, e.g. because of dropout.
    """
    with torch.no_grad():
        draws = random_sites(trace(program, x, y, num_samples=1))
        given = {name: site["value"] for name, site in draws.items() if not site["is_observed"]}
        one, other = (log_probs(program, x, y, given, seed=seed) for seed in (0, 1))
    for name, value in one.items():
        if not close(value, other[name]):
            raise BadInput(
                f"the log-density of site {name} of the {role} at given latents is random, and {needed_by} needs it "
                "twice: remove dropout from the networks, or choose another objective or no missingness model"
            )


def log_probs(
    program: Program, x: Tensor, y: Tensor | None, values: dict[str, Tensor], last_rows: bool = False, seed: int = 0
) -> dict[str, Tensor]:
    """Return the log-densities of a program's sites at given latents; equal seeds give the same random numbers."""
    with seeded(seed, x), _Rows(last_rows):
        run = trace(poutine.condition(program, data=values), x, y, num_samples=1)
    run.compute_log_prob()
    return {name: unscaled_log_prob(site) for name, site in random_sites(run).items()}


def close(a: Tensor, b: Tensor) -> bool:
    """Return whether log-densities are the same but for rounding."""
    return torch.allclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True)


class _Rows(Messenger):
    """Makes plates that subsample choose the first rows in order, or the last ones in reverse."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last = last

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if site_is_subsample(msg) and msg["value"] is None and (fn.subsample_size or fn.size) < fn.size:
            rows = torch.arange(fn.subsample_size, device=fn.device)
            msg["value"] = fn.size - 1 - rows if self.last else rows
