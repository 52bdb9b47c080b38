"""A check that the log-densities of a program are functions of its latents, in training mode as well."""

from __future__ import annotations

import torch
from pyro import poutine
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
        one, other = (_log_probs(poutine.condition(program, data=given), x, y, seed) for seed in (0, 1))
    for name, value in one.items():
        if not torch.allclose(value, other[name], rtol=1e-3, atol=1e-3, equal_nan=True):
            raise BadInput(
                f"the log-density of site {name} of the {role} at given latents is random, and {needed_by} needs it "
                "twice: remove dropout from the networks, or choose another objective or no missingness model"
            )


def _log_probs(program: Program, x: Tensor, y: Tensor | None, seed: int) -> dict[str, Tensor]:
    with seeded(seed, x):
        run = trace(program, x, y, num_samples=1)
    run.compute_log_prob()
    return {name: unscaled_log_prob(site) for name, site in random_sites(run).items()}
