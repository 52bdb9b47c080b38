"""NaN and infinite losses, and where they come from."""

from __future__ import annotations

import math
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.data.split import Batch
from pyro_vae.errors import FailedRun
from pyro_vae.parallel import collectives
from pyro_vae.programs.trace import Program
from pyro_vae.training.state import State
from pyro_vae.training.svi import SVI


def failed_step(what: str, svi: SVI, batch: Batch, state: State, advice: str) -> FailedRun:
    """Return an error that names the site where a non-finite number first occurs, to end training before it is saved.

    Restore the generator's state of the step before.
    """
    where = offending_site(svi.model, svi.guide, *batch)
    return FailedRun(f"{what} of epoch {state.epoch + 1}: {where}; the last good epoch is {state.epoch}: {advice}")


def sum_reports(reported: list[Tensor], svi: SVI, batch: Batch, state: State, advice: str) -> Tensor:
    """Empty the list of the last steps' reports; return the sums of ELBO and log-likelihood. This synchronizes a GPU.

    Raises:
        FailedRun: if a loss was NaN or infinite.
    """
    if not reported:  # all processes have skipped all steps
        return torch.zeros(2, dtype=torch.float64)
    rows = torch.stack(reported).double().cpu()
    for i, loss in enumerate(rows[:, 0].tolist()):
        if not math.isfinite(loss):
            what = f"the loss is {loss} at step {state.step - len(rows) + i + 1}"
            raise failed_step(what, svi, batch, state, advice)
    reported.clear()
    return collectives.total(rows[:, 1:].sum(0))


def require_finite_parameters(state: State, advice: str) -> None:
    """Reject non-finite parameters, which an epoch's last step may have caused, before they are saved.

    Raises:
        FailedRun: if there are any.
    """
    parameters = pyro.get_param_store().named_parameters()
    if bad := [name for name, parameter in parameters if not _finite(parameter)]:
        raise FailedRun(
            f"{bad[0]} is not finite after epoch {state.epoch + 1}; the last good epoch is {state.epoch}: {advice}"
        )


def offending_site(model: Program, guide: Program, x: Tensor, y: Tensor | None) -> str:
    """Return in words the first place, in the order of computation, where a number is not finite.

    It searches the parameters, then the sites of one run of the guide and of the model.
    """
    args = (x,) if y is None else (x, y)
    for name, parameter in pyro.get_param_store().named_parameters():
        if not _finite(parameter):
            return f"the parameter {name.replace('$$$', '.')} is not finite: nor was its gradient, a step before"
    with torch.no_grad(), pyro.validation_enabled(False):
        guide_trace = poutine.trace(guide).get_trace(*args)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args)
        for program, trace in (("guide", guide_trace), ("model", model_trace)):
            trace.compute_log_prob()
            for name, site in trace.nodes.items():
                if site["type"] == "sample" and not _finite(site["value"]):
                    return f"the value of the {program}'s site {name} is not finite"
                if site["type"] == "sample" and not _finite(site["log_prob"]):
                    return f"the log-density of the {program}'s site {name} is not finite"
    return "all sites are finite, the objective computed from them is not"


def _finite(value: Any) -> bool:
    return bool(torch.isfinite(value).all())
