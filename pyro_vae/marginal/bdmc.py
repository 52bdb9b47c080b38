"""Bidirectional Monte Carlo: log p(x) of simulated data, between a lower and an upper bound."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.errors import BadInput
from pyro_vae.marginal.ais import AIS
from pyro_vae.marginal.density import Latents
from pyro_vae.marginal.elbo import guide_elbo
from pyro_vae.marginal.evidence import LogEvidence
from pyro_vae.marginal.weights import Program, slices, trace


def simulate(model: Program, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """As many datapoints as x has, drawn from the model, and their exact posterior draws u `[N, D]`.

    Drawing (z, x) from the model makes z a draw from p(z | x).

    Raises:
        BadInput: if the model observes more than one site.
    """
    latents = Latents.of(model, x[:2], None if y is None else y[:2])
    with torch.no_grad():
        observed = [
            name
            for name, site in trace(model, x, y, num_samples=1).nodes.items()
            if site["type"] == "sample" and site["is_observed"]
        ]
        if len(observed) != 1:
            raise BadInput(f"bdmc simulates models that observe one site; this one observes {', '.join(observed)}")
        draws = trace(poutine.uncondition(model), x, y, num_samples=1)
        simulated: Any = draws.nodes[observed[0]]["value"]
        return simulated.squeeze(0), latents.pack(draws).squeeze(0)


class BDMC(AIS):
    """The sandwich log p̂_lower ≤ log p(x) ≤ log p̂_upper in expectation, on data drawn from the model.

    Grosse, Ghahramani & Adams (2015), https://arxiv.org/abs/1511.02543: AIS from the guide or prior bounds log p(x)
    from below, AIS backwards from the exact posterior draw that came with x from above. Its `gap` bounds the error of
    either: it certifies what AIS with these settings says of real data, if the model fits them. `log_px` is
    the lower bound; `extra` holds `log_px_upper`, `gap` and `acceptance`. Of x only the number and shape are used.
    Arguments and errors as for `AIS`.
    """

    def __call__(
        self,
        model: Program,
        guide: Program,
        x: Tensor,
        y: Tensor | None = None,
        progress: Callable[[int], Any] = lambda pairs: None,
    ) -> LogEvidence:
        """Bounds for as many simulated datapoints as x `[N, ...]` has."""
        with pyro.validation_enabled(False):
            simulated, u = simulate(model, x, y)
            latents = Latents.of(model, x[:2], None if y is None else y[:2])
            n = max(1, self.chunk_size // self.num_samples)
            parts = [
                self.chunk(latents, model, guide, x_part, y_part, progress, u_part)
                for x_part, y_part, u_part in slices(n, simulated, y, u)
            ]
            evidence = LogEvidence.cat(parts)
            gap = evidence.extra["log_px_upper"] - evidence.log_px
            return replace(evidence, elbo=guide_elbo(model, guide, simulated, y), extra={**evidence.extra, "gap": gap})
