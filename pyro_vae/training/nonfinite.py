"""Where a loss that is NaN or infinite comes from."""

from __future__ import annotations

from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor

from pyro_vae.programs.trace import Program


class NotFinite(ArithmeticError):
    """A step was not made, for its loss is not finite."""


def offending_site(model: Program, guide: Program, x: Tensor, y: Tensor | None) -> str:
    """The first place, in the order of computation, that is not finite; in words.

    It is looked for among the parameters, then among the sites of one run of the guide and of the model after it: give
    the generator the state it had.
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
    return "every site is finite, the objective made of them is not"


def _finite(value: Any) -> bool:
    return bool(torch.isfinite(value).all())
