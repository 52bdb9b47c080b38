"""Ranges of the settings of torch's optimizers and schedules, whose own messages name neither option nor range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyro_vae.errors import BadInput, integer, positive, positive_ints, share, shown, true_false, within


def check_optimizer(optimizer: Any) -> None:
    """Check the settings of an optimizer of torch or of this package; your own may give them another meaning.

    Args:
        optimizer: makes the optimizer, such as `functools.partial(torch.optim.Adam, lr=1e-3)`.

    Raises:
        BadInput: if one is out of its range.
    """
    make = getattr(optimizer, "func", optimizer)
    if not str(getattr(make, "__module__", "")).startswith(("torch.optim", "pyro_vae.")):
        return
    settings = getattr(optimizer, "keywords", {})
    for name, value in settings.items():
        key = f"optimizer.{name}"
        if name in ("lr", "eps", "weight_decay", "momentum"):
            within(key, value, low=0)
        elif name == "alpha":
            share(key, value)
        elif name == "nesterov":
            true_false(key, value)
        elif name == "betas":
            if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
                raise BadInput(f"{key}={shown(value)} must be two numbers in [0, 1), as in {key}=[0.9,0.999]")
            for beta in value:
                share(key, beta)
    if settings.get("nesterov") and not settings.get("momentum"):
        raise BadInput(
            "optimizer.nesterov=true needs optimizer.momentum above 0: raise it, or set optimizer.nesterov=false"
        )


def check_schedule(scheduler: Any) -> None:
    """Check settings of a schedule, some of which torch accepts silently but does not follow.

    Raises:
        BadInput: if one is out of its range.
    """
    settings = getattr(scheduler, "keywords", {})
    for name, value in settings.items():
        key = f"scheduler.{name}"
        if name == "gamma":
            positive(key, value)
        elif name == "factor":
            within(key, positive(key, value), high=1)
        elif name in ("eta_min", "threshold"):
            within(key, value, low=0)
        elif name in ("step_size", "patience", "cooldown", "T_max", "total_iters"):
            integer(key, value, low=name in ("step_size", "T_max"))
        elif name == "milestones":
            positive_ints(key, value)
