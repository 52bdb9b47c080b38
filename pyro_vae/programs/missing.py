"""Missing entries of the data, which are NaN: they are not observed, so that log p(x | z) leaves them out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_vae.errors import BadInput

X_MIS = "x_mis"
"""The latent site of a model with a missingness model: draws of x given z, used where x is missing."""


def observe(p_x: Any, x: Tensor, fill: Tensor) -> tuple[Any, Tensor]:
    """Return a distribution and data whose log-density is log p(x_obs): entries of x that are NaN add 0.

    Args:
        p_x: distribution of x, whose entries are independent.
        x: data `[N, ...]`.
        fill: values in the support that replace NaN, so that gradients are finite; it broadcasts to x.
    """
    observed = ~x.isnan()
    return masked(p_x, observed), torch.where(observed, x, fill)


def masked(p_x: Any, observed: Tensor) -> Any:
    """Return p_x without the log-densities of entries that are not `observed` `[N, ...]`.

    If entries are dependent, as in a multivariate normal, all of them must be observed.
    """
    entry, num_dims = entries(p_x)
    if entry.event_shape:
        observed = observed.flatten(observed.dim() - len(entry.event_shape)).all(-1)
    return dist.Independent(dist.MaskedDistribution(entry, observed), num_dims)


def dependent_shape(p_x: Any) -> torch.Size:
    """Return the shape of the entries that depend on each other: `[]` if all are independent."""
    shape: torch.Size = entries(p_x)[0].event_shape
    return shape


def check_factorizes(p_x: Any, observed: Tensor) -> None:
    """Check that entries which are dependent given z are observed or missing together.

    Raises:
        BadInput: if not.
    """
    if shape := dependent_shape(p_x):
        together = observed.flatten(observed.dim() - len(shape))
        if (together.any(-1) != together.all(-1)).any():
            raise BadInput(
                f"mask observes a part of an event of shape {list(shape)} of the likelihood, whose entries "
                "are dependent given z: mask whole events"
            )


def typical(x: Tensor, columns: Sequence[str] = ()) -> Tensor:
    """Return the lower median of the observed entries of x `[N, *data_shape]`: `[*data_shape]`.

    Args:
        x: training data; NaN is missing.
        columns: names of the columns of a table, for messages.

    Raises:
        BadInput: if an entry is missing in all datapoints.
    """
    median = x.nanmedian(0).values
    if len(never := median.isnan().nonzero()):
        if columns:
            name = columns[int(never[0])]
            raise BadInput(
                f"column {name} has no value in the training rows: leave it out, data.kinds={{{name}: ignore}}"
            )
        raise BadInput(
            f"{len(never)} of the {median.numel()} entries of a datapoint are missing (NaN) in all training data, the "
            f"first at index {never[0].tolist()}: leave them out"
        )
    return median


def entries(p_x: Any) -> tuple[Any, int]:
    """Return the distribution of single entries, and the number of dimensions over which they are independent."""
    num_dims = 0
    while isinstance(p_x, torch.distributions.Independent):
        num_dims += p_x.reinterpreted_batch_ndims
        p_x = p_x.base_dist
    return p_x, num_dims
