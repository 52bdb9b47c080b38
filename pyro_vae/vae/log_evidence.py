"""log p(x) of a VAE by an estimator that its users name."""

from __future__ import annotations

import inspect
from typing import Any

from pyro_vae.errors import BadInput, one_of, shown
from pyro_vae.marginal import AIS, ELBO, NUTS, Estimator, Exact, Importance, LogEvidence, Prior, Refined
from pyro_vae.marginal.evidence import doubt
from pyro_vae.marginal.pareto import FEW
from pyro_vae.marginal.summary import tolerated

KINDS: tuple[type[Estimator], ...] = (AIS, ELBO, Exact, Importance, NUTS, Prior, Refined)
ESTIMATORS = {kind.name: kind for kind in KINDS}


def estimator_of(estimator: str | Estimator, settings: dict[str, Any]) -> Estimator:
    """Return the estimator of that name with these settings, or the one that is given.

    Raises:
        BadInput: if there is no such estimator or setting.
    """
    if isinstance(estimator, Estimator):
        if settings:
            raise BadInput(f"{next(iter(settings))} is given beside an estimator that is built: give it to that one")
        return estimator
    kind = ESTIMATORS[one_of("estimator", estimator, tuple(ESTIMATORS))]
    known = inspect.signature(kind).parameters
    for name, value in settings.items():
        if name not in known:
            raise BadInput(
                f"{name}={shown(value)} is not a setting of estimator={estimator}: choose one of {', '.join(known)}"
            )
    return kind(**settings)


def warning_of(evidence: LogEvidence, estimator: Estimator) -> str | None:
    """Return a warning if more estimates than `tolerated` are unreliable; bounds have no such estimates."""
    share = evidence.unreliable.double().mean().item()
    if evidence.is_bound or share <= tolerated(evidence.num_samples, evidence.k_threshold):
        return None
    few = evidence.num_samples < FEW
    advice = ["raise num_samples"] if few or not isinstance(estimator, (Importance, Prior)) else []
    if isinstance(estimator, (Importance, Prior)):
        advice.append('use estimator="refined"; for discrete latents raise num_samples')
    return (
        f"{share:.0%} of these log p(x) are unreliable ({evidence.criterion}), "
        f"{doubt(evidence.num_samples, evidence.k_threshold)}: {', or '.join(advice)}"
    )
