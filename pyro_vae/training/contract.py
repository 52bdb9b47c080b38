"""Checks that a user's own objective keeps its contract."""

from __future__ import annotations

from torch import Tensor

from pyro_vae.errors import BadInput
from pyro_vae.errors.own_code import is_own, own_code
from pyro_vae.objectives import Bound, Objective
from pyro_vae.vae import VAE
from pyro_vae.vae.contract import require_returned


def require_objective(objective: Objective, vae: VAE, x: Tensor, y: Tensor | None) -> None:
    """Check the type of an objective, and evaluate it once on x `[N, *data_shape]` if it is the user's.

    Raises:
        BadInput: if it is not an `Objective`, it fails, or its methods do not return what they must.
    """
    name = f"objective={type(objective).__name__}"
    if not isinstance(objective, Objective):
        raise BadInput(
            f"{name} does not define bound(model, guide, x, y): derive it from pyro_vae.objectives.Objective"
        )
    if not is_own(objective):
        return
    with own_code("at_step, bound or for_validation", objective=objective):
        hash(objective.at_step(0, 0.0))
        bound = objective.bound(vae.model, vae.guide, x, y)
        validation = objective.for_validation(1)
    require_returned(
        "objective", objective, "bound", bound, Bound, "pyro_vae.objectives.Bound(loss, elbo, log_likelihood)"
    )
    require_returned("objective", objective, "for_validation", validation, Objective)
    for field, value in bound._asdict().items():
        if not isinstance(value, Tensor) or value.ndim:
            found = f"shape {list(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
            raise BadInput(f"{name}: {field} of its Bound has {found}, but must be a tensor without dimensions")
    if not bound.loss.requires_grad:
        raise BadInput(
            f"{name}: the loss of its Bound has no gradient, so that nothing would be trained: do not detach it"
        )
