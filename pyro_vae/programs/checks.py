"""Checks of the arguments of estimators and analyses: data as tensors, and two Pyro programs that match."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import ImproperUniform
from pyro.infer.autoguide import AutoDelta, AutoGuide
from pyro.poutine import Trace
from torch import Tensor, nn

from pyro_vae.data.values import dense
from pyro_vae.errors import BadInput, one_line
from pyro_vae.errors.memory import raise_out_of_memory
from pyro_vae.programs.chunks import slices
from pyro_vae.programs.density import has_atoms, support_of
from pyro_vae.programs.failures import is_about_values, line_about
from pyro_vae.programs.repeatable import close, log_probs
from pyro_vae.programs.trace import Program, base_of, mask_of, random_sites, share_of, trace, unscaled_log_prob

NUM_DRAWS = 100

Sites = dict[str, Any]
"""Sites of a trace by name."""


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


def require_programs(model: Program, guide: Program, y: Tensor | None) -> None:
    """Check that both programs are callable, with y if it is given, and without it if not.

    Raises:
        BadInput: if one is not.
    """
    if isinstance(guide, AutoGuide) and not isinstance(guide, AutoDelta):
        raise BadInput(
            f"guide is an {type(guide).__name__}, whose parameters belong to the rows that it was made with: write a "
            "guide that computes them from x"
        )
    for name, program in (("model", model), ("guide", guide)):
        if not callable(program) or getattr(type(program), "forward", None) is nn.Module.forward:
            raise BadInput(
                f"{name} has type {type(program).__name__} and is not a Pyro program: give a function, e.g. vae.{name}"
            )
        if not _takes(program, y is not None) and _takes(program, y is None):
            problem = "needs labels, but y is not given" if y is None else "takes no labels, but y is given"
            remedy = "give y" if y is None else "leave out y"
            raise BadInput(f"{name} {problem}: {remedy}, or define {name}(x, y=None)")


def _takes(program: Program, labels: bool) -> bool:
    """Return whether a program can be called with x, or with x and labels."""
    try:
        signature = inspect.signature(program.forward if isinstance(program, nn.Module) else program)
    except (TypeError, ValueError):  # not known
        return True
    try:
        signature.bind(*range(1 + labels))
    except TypeError:
        return False
    return True


def require_match(model: Program, guide: Program, x: Tensor, y: Tensor | None) -> None:
    """Check on two datapoints that model and guide give an importance weight p(x, z) / q(z | x) for each datapoint.

    Programs that do not would give wrong estimates without any sign of it. docs/reference/programs.md describes the
    programs that pass.

    Raises:
        BadInput: if the programs do not draw the same latents, with the same masks and within the support of the
            model's; if a prior is improper; if the guide observes something, or the model nothing; if a density is
            scaled, or is not that of one datapoint, or is random at given latents; if a program raises an error.
    """
    x, y = next(slices(2, x, y))
    with torch.no_grad(), vectorized():
        draws = trace(guide, x, y, num_samples=NUM_DRAWS)
        _require_latents_only(draws)
        joint = trace(poutine.replay(model, trace=draws), x, y, num_samples=NUM_DRAWS)
        q, p = random_sites(draws), random_sites(joint)
        _require_same_latents(p, q)
        for name, site in q.items():
            _require_proper(name, p[name]["fn"])
            _require_support(name, p[name]["fn"], site)
            _require_same_mask(name, p[name], site)
        joint.compute_log_prob()
        draws.compute_log_prob()
        for role, sites in (("model", p), ("guide", q)):
            for name, site in sites.items():
                _require_shape(f"site {name} of the {role}", unscaled_log_prob(site).shape, (NUM_DRAWS, len(x)))
                _require_unscaled(f"site {name} of the {role}", site)
        for role, program, sites in (("model", model, p), ("guide", guide, q)):
            _require_rows(role, program, x, y, sites)


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
        if is_about_values(error):
            raise BadInput(line_about(error)) from error
        raise BadInput(
            f"model and guide do not run on several samples of x at once ({one_line(error)}): give x the shape and "
            "dtype that they expect, and draw in a plate of the datapoints at dim=-1, which leaves dim=-2 to samples"
        ) from error


def _require_latents_only(guide: Trace) -> None:
    for name, site in random_sites(guide).items():
        if site["is_observed"]:
            raise BadInput(
                f"site {name} of the guide is observed or a pyro.factor: the guide must only draw latents, so that "
                "its density integrates to 1"
            )


def _require_same_latents(p: Sites, q: Sites) -> None:
    latents = {"model": {name for name, site in p.items() if not site["is_observed"]}, "guide": set(q)}
    for one, other in (("model", "guide"), ("guide", "model")):
        for name in sorted(latents[one] - latents[other]):
            raise BadInput(
                f"site {name} of the {one} is not in the {other}: both must draw the same latents, also those that are "
                "auxiliary or enumerated"
            )
    if len(latents["model"]) == len(p):
        raise BadInput("the model has no sites that are observed: it must observe x, as in pyro.sample(..., obs=x)")


def _require_same_mask(name: str, prior: Any, site: Any) -> None:
    """Check that a latent is masked in both programs or in neither."""
    one, other = (torch.as_tensor(mask_of(each), device=site["value"].device) for each in (prior, site))
    if not bool((one == other).all()):
        raise BadInput(f"the mask of site {name} is not the same in model and guide: mask both densities, or neither")


def _require_shape(site: str, shape: torch.Size, batch: tuple[int, int]) -> None:
    """Check that a log-density has a value for each datapoint, and broadcasts to the samples."""
    if len(shape) > 2 or shape[-1:] != batch[-1:] or shape[:-1] not in ((), (1,), batch[:1]):
        raise BadInput(
            f"{site} is not in a plate of the datapoints at dim=-1: its log-density for {batch[0]} samples of "
            f"{batch[1]} datapoints has shape {list(shape)} instead of {list(batch)}; each datapoint needs its own "
            "latents, and to_event for all dimensions but the first"
        )


def _require_unscaled(name: str, site: Any) -> None:
    """Check that plates that subsample, whose scale is left out, are all that scales a density."""
    scale = torch.as_tensor(site["scale"]) / math.prod(share_of(frame) for frame in site["cond_indep_stack"])
    others = scale[~torch.isclose(scale, torch.ones_like(scale), rtol=1e-4)]
    if len(others):
        raise BadInput(
            f"the log-density of {name} is scaled by {others[0]:.4g}: remove poutine.scale, so that it is the log of a "
            "density (the scale of a plate that subsamples is left out in any case)"
        )


def _require_rows(role: str, program: Program, x: Tensor, y: Tensor | None, sites: Sites) -> None:
    """Check that densities at the first datapoint depend on its own x, y and latents only."""
    latents = {name: site for name, site in sites.items() if not site["is_observed"]}
    first = torch.zeros(len(x), dtype=torch.long, device=x.device)
    values = {name: site["value"][:1] for name, site in latents.items()}
    copies = {n: v.index_select(v.dim() - latents[n]["fn"].event_dim - 1, first) for n, v in values.items()}
    expected = log_probs(program, x, y, values)
    again = log_probs(program, x, y, values, seed=1)
    beside_copy = log_probs(program, x[first], None if y is None else y[first], copies)
    for name in sorted((sites.keys() ^ expected) | (sites.keys() ^ again) | (sites.keys() ^ beside_copy)):
        raise BadInput(
            f"site {name} is not in every run of the {role}: draw the same sites each time, without branches on random "
            "numbers or on values of x"
        )
    for name, value in again.items():
        if not close(value, expected[name]):
            raise BadInput(
                f"the log-density of site {name} of the {role} at given latents is random: draw all random numbers at "
                "sites, and call eval() on modules with dropout"
            )
    for name, value in expected.items():
        if not close(value[..., 0], beside_copy[name][..., 0]):
            raise BadInput(
                f"the log-density of site {name} of the {role} at a datapoint depends on other datapoints: use "
                "to_event for all dimensions but the first, and call eval() on modules with batch normalization"
            )
    if not any(share_of(frame) > 1 for site in sites.values() for frame in site["cond_indep_stack"]):
        return
    for name, value in log_probs(program, x, y, values, last_rows=True).items():
        if not close(value, expected[name]):
            raise BadInput(
                f"site {name} of the {role} depends on the indices of a plate that subsamples: use all rows of x, in "
                "a plate of size len(x)"
            )


def _require_proper(name: str, prior: Any) -> None:
    if isinstance(base_of(prior), ImproperUniform):
        raise BadInput(
            f"the prior of site {name} is improper: p(z) is not normalized, so that p(x) does not exist; use a proper "
            "distribution in place of ImproperUniform, e.g. a wide Normal"
        )


def _require_support(name: str, prior: Any, site: Any) -> None:
    """Check that the distributions of model and guide at a site have about the same support, by draws of each."""
    if has_atoms(prior) != has_atoms(site["fn"]):
        kinds = ["discrete" if has_atoms(fn) else "continuous" for fn in (prior, site["fn"])]
        raise BadInput(f"site {name} is {kinds[0]} in the model and {kinds[1]} in the guide: give both the same kind")
    if site["value"].isnan().any():
        raise BadInput(f"the guide draws NaN at site {name}: replace NaN in x, and check the guide's parameters")
    if not _contains(prior, site["value"]):
        raise BadInput(
            f"the guide draws site {name} outside its support in the model ({_words(prior)}): use a "
            "distribution with the same support"
        )
    try:
        is_same = str(support_of(prior)) == str(support_of(site["fn"]))
        draws = None if is_same else prior.sample()
    except NotImplementedError:  # the support is unknown, or the prior cannot be sampled
        return
    if draws is not None and not _contains(site["fn"], draws):
        raise BadInput(
            f"the guide never draws site {name} from a part of its support in the model ({_words(site['fn'])} "
            f"instead of {_words(prior)}): use a distribution with the same support"
        )


def _words(fn: Any) -> str:
    """Describe the support of a distribution in one line, without the numbers in its bounds."""
    return re.sub(r"tensor\([^)]*\)", "[...]", str(support_of(fn)))


def _contains(fn: Any, draws: Tensor) -> bool:
    """Return whether most draws lie in the support of a distribution; rounding may put a few on the boundary."""
    try:
        inside = support_of(fn).check(draws)
    except (NotImplementedError, RuntimeError, ValueError):  # the support is unknown
        return True
    return bool(inside.double().mean() >= 0.9)
