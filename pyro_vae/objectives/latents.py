"""The distributions of guide and model, for objectives that do not suit all of them."""

from __future__ import annotations

from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Delta
from torch import Tensor
from torch.distributions import kl_divergence

from pyro_vae.errors import Incompatible
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.trace import Program, base_of, trace

Sites = dict[str, tuple[Any, Any]]
"""The guide's and the model's distribution at each latent site."""


def latents(model: Program, guide: Program, x: Tensor, y: Tensor | None = None) -> Sites:
    """Return the distributions at the latent sites of two datapoints."""
    x, y = next(slices(2, x, y))
    with torch.no_grad(), poutine.block():
        draws = trace(guide, x, y, num_samples=1)
        joint = trace(poutine.replay(model, trace=draws), x, y, num_samples=1)
    return {name: (site["fn"], joint.nodes[name]["fn"]) for name, site in draws.iter_stochastic_nodes()}


def needs_reparameterized(objective: str, sites: Sites) -> None:
    """Reject a guide that cannot be differentiated through its draws.

    Raises:
        Incompatible: if it has a site that is not reparameterized.
    """
    for name, (q, _) in sites.items():
        if not q.has_rsample:
            raise Incompatible(
                f"objective={objective} needs a reparameterized guide, q({name} | x) is a {type(base_of(q)).__name__}",
                "use objective=score_function or reweighted_wake_sleep",
            )


def needs_density(objective: str, sites: Sites) -> None:
    """Reject a guide that has no log q(z | x), by which an objective weighs draws or which it differentiates.

    Raises:
        Incompatible: if it is a point.
    """
    for name, (q, _) in sites.items():
        if isinstance(base_of(q), Delta):
            raise Incompatible(
                f"objective={objective} needs the density of the guide, q({name} | x) is a point",
                "use objective=trace_elbo",
            )


def closed_form_kl(q: Any, p: Any) -> Tensor | None:
    """KL(q ‖ p) in nats, of q's batch shape; None where it is not known in closed form."""
    try:
        return kl_divergence(q, p)
    except NotImplementedError:
        return None
