"""Checks of the arguments of estimators and analyses: data as tensors, and two Pyro programs that match."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from torch import Tensor, nn

from pyro_vae.data.values import dense
from pyro_vae.errors import BadInput, one_line
from pyro_vae.errors.memory import raise_out_of_memory
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.density import has_atoms
from pyro_vae.programs.trace import Program, trace

NUM_DRAWS = 100


def require_tensors(x: Tensor, y: Tensor | None) -> None:
    """Check that x `[N, ...]` and y `[N]` are tensors with equally many rows.

    Raises:
        BadInput: if they are not.
    """
    for name, value in (("x", x), ("y", y)):
        if value is None and name == "y":
            continue
        if not isinstance(value, Tensor):
            raise BadInput(f"{name} has type {type(value).__name__}: give a tensor, e.g. torch.as_tensor({name})")
        if not value.ndim:
            raise BadInput(f"{name} has shape []: give one row for each datapoint, [N, ...]")
        dense(value, name)
    if not len(x):
        raise BadInput("x is empty: give at least one datapoint")
    if y is not None and len(y) != len(x):
        raise BadInput(f"y has {len(y)} labels for {len(x)} datapoints: give one for each")


def require_programs(model: Program, guide: Program) -> None:
    """Check that both programs are callable.

    Raises:
        BadInput: if one is not.
    """
    for name, program in (("model", model), ("guide", guide)):
        if not callable(program) or getattr(type(program), "forward", None) is nn.Module.forward:
            raise BadInput(
                f"{name} has type {type(program).__name__} and is not a Pyro program: give a function, e.g. vae.{name}"
            )


def require_match(model: Program, guide: Program, x: Tensor, y: Tensor | None) -> None:
    """Check on two datapoints that model and guide give an importance weight per datapoint.

    Both must draw the same latent sites, and the guide's draws must lie in the support of the model's prior. Otherwise
    the weights are wrong without any sign of it.

    Raises:
        BadInput: if they do not.
    """
    x, y = next(slices(2, x, y))
    with torch.no_grad(), vectorized():
        of_guide = trace(guide, x, y, num_samples=NUM_DRAWS)
        of_model = trace(poutine.replay(model, trace=of_guide), x, y, num_samples=NUM_DRAWS)
        latents = {name: _latents(nodes) for name, nodes in (("model", of_model.nodes), ("guide", of_guide.nodes))}
        for one, other in (("model", "guide"), ("guide", "model")):
            for name, site in latents[one].items():
                if name not in latents[other] and not site["infer"].get("is_auxiliary"):
                    raise BadInput(f"site {name} of the {one} is not in the {other}: both must draw the same latents")
        if not any(site["type"] == "sample" for site in of_model.nodes.values()):
            raise BadInput("the model has no sites: it must draw latents and observe x")
        for name in latents["model"].keys() & latents["guide"].keys():
            _require_support(name, latents["model"][name]["fn"], latents["guide"][name])
        of_model.compute_log_prob()
        for name, site in of_model.nodes.items():
            if site["type"] == "sample" and not _fits(site["log_prob"].shape, (NUM_DRAWS, len(x))):
                raise BadInput(
                    f"site {name} of the model is not in a plate of the datapoints at dim=-1: its log-density for "
                    f"{NUM_DRAWS} samples of {len(x)} datapoints has shape {list(site['log_prob'].shape)}"
                )


@contextmanager
def vectorized() -> Iterator[None]:
    """Translate errors of programs that cannot run on several samples of several datapoints at once.

    Raises:
        BadInput: with the reason that Pyro or torch gives.
    """
    try:
        yield
    except (BadInput, NotImplementedError):
        raise
    except (RuntimeError, ValueError, IndexError) as error:
        raise_out_of_memory(error)
        raise BadInput(
            f"model and guide do not run on several samples of x at once ({one_line(error)}): give x the shape and "
            "dtype that they expect, and draw in a plate of the datapoints at dim=-1, which leaves dim=-2 to samples"
        ) from error


def _latents(nodes: Any) -> dict[str, Any]:
    return {name: site for name, site in nodes.items() if site["type"] == "sample" and not site["is_observed"]}


def _require_support(name: str, prior: Any, site: Any) -> None:
    """Check draws of the guide at a site against the model's distribution there."""
    if has_atoms(prior) != has_atoms(site["fn"]):
        kinds = ["discrete" if has_atoms(fn) else "continuous" for fn in (prior, site["fn"])]
        raise BadInput(f"site {name} is {kinds[0]} in the model and {kinds[1]} in the guide: give both the same kind")
    try:
        inside = prior.support.check(site["value"])
    except (NotImplementedError, RuntimeError):  # the support is unknown
        return
    if inside.double().mean() < 0.9:  # rounding may put a few draws on the boundary
        raise BadInput(
            f"the guide draws site {name} outside its support in the model ({prior.support}): use a "
            "distribution with the same support"
        )


def _fits(shape: torch.Size, batch: tuple[int, int]) -> bool:
    """Return whether a log-density broadcasts to the batch."""
    return len(shape) <= len(batch) and all(n in (1, m) for n, m in zip(reversed(shape), reversed(batch), strict=False))
