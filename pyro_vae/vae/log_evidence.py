"""log p(x) of a VAE by an estimator that its users name."""

from __future__ import annotations

import inspect
from typing import Any

from pyro_vae.errors import BadInput, one_of, shown
from pyro_vae.marginal import (
    AIS,
    BDMC,
    ELBO,
    NUTS,
    Auto,
    Estimator,
    Exact,
    Importance,
    LogEvidence,
    Prior,
    Refined,
    Sandwich,
)
from pyro_vae.marginal.summary import summarize, verdict
from pyro_vae.programs import notes

KINDS: tuple[type[Estimator], ...] = (AIS, Auto, ELBO, Exact, Importance, NUTS, Prior, Refined, Sandwich)
ESTIMATORS = {kind.name: kind for kind in KINDS}

IN_FIT = {"network.hidden=[]": 'network=("mlp", {"hidden": []})', "guide=diagonal": 'guide="diagonal"'}
"""How `fit` writes what errors of estimators advise."""


def estimator_of(estimator: str | Estimator, settings: dict[str, Any]) -> Estimator:
    """Return the estimator of that name with these settings, or the one that is given.

    Raises:
        BadInput: if the estimator or a setting is unknown, or if the estimator simulates its data.
    """
    if isinstance(estimator, Estimator):
        if settings:
            raise BadInput(f"{next(iter(settings))} is given beside an estimator that is built: give it to that one")
        return estimator
    if estimator == BDMC.name:
        raise BadInput(
            "estimator=bdmc simulates its own data and tells nothing about x: run python -m pyro_vae.evaluate run=DIR "
            "estimator=bdmc, or call pyro_vae.marginal.BDMC()(vae.model, vae.guide, x), which uses only the shape of x"
        )
    kind = ESTIMATORS[one_of("estimator", estimator, tuple(ESTIMATORS))]
    known = inspect.signature(kind).parameters
    for name, value in settings.items():
        if name not in known:
            raise BadInput(
                f"{name}={shown(value)} is not a setting of estimator={estimator}: choose one of {', '.join(known)}"
            )
    return kind(**settings)


def warn_if_unreliable(evidence: LogEvidence, estimator: Estimator) -> None:
    """Warn, with the estimator's advice, if too many of the estimates are unreliable (`summary.tolerated`)."""
    if warning := verdict(summarize(evidence, estimator.name), estimator):
        warning = warning.replace("estimator.", "").replace("=null", "=None")
        notes.warn(warning)
