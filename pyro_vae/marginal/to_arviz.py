"""Estimates of log p(x) as objects of ArviZ (https://python.arviz.org), of its versions before and since 1.0."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from pyro_vae.errors import BadInput

Tensors = Mapping[str, Tensor]


def arviz() -> Any:
    """Import ArviZ.

    Raises:
        BadInput: if it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # about its version 1
            import arviz
    except ImportError as error:
        raise BadInput("this needs ArviZ: pip install -e '.[arviz]'") from error
    return arviz


def inference_data(per_datapoint: Tensors, log_weights: Tensor | None, z: Tensors, about: Mapping[str, Any]) -> Any:
    """Return an `arviz.InferenceData` or, since ArviZ 1.0, an `xarray.DataTree` with up to three groups.

    - `log_evidence` has numbers of each `datapoint`: `log_px`, `se`, `ess`, `pareto_k`, `elbo`, `unreliable`, ...;
    - `importance` has the `log_weights` of importance draws: `chain` (one), `draw` (K), `datapoint`;
    - `posterior` has draws of the latent sites: `chain` (one), `draw` (S), `datapoint`, and the site's own dimensions.

    Args:
        per_datapoint: numbers of each datapoint `[N]` by name.
        log_weights: of the importance draws, `[K, N]`; None: there are none.
        z: posterior draws by site, `[S, N, ...]`; may be empty.
        about: attributes of log_evidence.

    Example:
        >>> data = vae.evidence(x, estimator="importance", keep_draws=True).to_arviz()         # doctest: +SKIP
        >>> arviz.plot_pair(data, coords={"datapoint": 0}), data["log_evidence"]["pareto_k"]  # doctest: +SKIP
    """
    az = arviz()
    import xarray

    def dataset(values: Tensors, *dims: str) -> Any:
        variables = {}
        for name, value in values.items():
            own = [f"{name}_dim_{i}" for i in range(value.dim() - len(dims))]
            variables[name] = ((*dims, *own), value.cpu().numpy())
        found = xarray.Dataset(variables)
        return found.assign_coords({dim: np.arange(size) for dim, size in found.sizes.items()})

    groups = {"log_evidence": dataset(per_datapoint, "datapoint").assign_attrs(about)}
    if log_weights is not None:
        groups["importance"] = dataset({"log_weights": log_weights[None]}, "chain", "draw", "datapoint")
    if z:
        groups["posterior"] = dataset({name: v[None] for name, v in z.items()}, "chain", "draw", "datapoint")
    return az.InferenceData(**groups) if _is_old(az) else xarray.DataTree.from_dict(groups)


def elpd(log_px: Tensor, pareto_k: Tensor, num_samples: int, good_k: float, unreliable: bool) -> Any:
    """Return an `ELPDData` whose pointwise values are log p(x) `[N]`, for `arviz.compare` and `arviz.plot_khat`.

    log p(x) of held-out datapoints is a log predictive density that needs no leave-one-out, though ArviZ calls it
    `loo`; the effective number of parameters is NaN. ArviZ sums over datapoints, where this library takes the mean.

    Example:
        >>> a, b = (vae.evidence(x).to_elpd() for vae in (vae_a, vae_b))  # doctest: +SKIP
        >>> arviz.compare({"a": a, "b": b}), arviz.plot_khat(a)           # doctest: +SKIP
    """
    az = arviz()
    import xarray

    def pointwise(values: Tensor) -> Any:
        return xarray.DataArray(values.cpu().numpy(), dims=["datapoint"], coords={"datapoint": np.arange(len(values))})

    N = len(log_px)
    values = {
        "elpd": log_px.sum().item(),
        "se": math.sqrt(N) * log_px.std(correction=0).item(),  # as ArviZ computes it
        "p": math.nan,
        "n_samples": num_samples,
        "n_data_points": N,
        "scale": "log",
        "warning": unreliable,
        "good_k": good_k,
        "elpd_i": pointwise(log_px),
        "pareto_k": pointwise(pareto_k),
    }
    if not _is_old(az):
        kind = {"kind": "loo"} if "kind" in inspect.signature(az.ELPDData).parameters else {}  # not in ArviZ 1.3
        return az.ELPDData(**kind, **values)
    old = {"elpd": "elpd_loo", "p": "p_loo", "elpd_i": "loo_i"}
    return az.ELPDData(list(values.values()), index=[old.get(name, name) for name in values])


def _is_old(az: Any) -> bool:
    """Whether this is a version of ArviZ before 1.0."""
    return int(az.__version__.partition(".")[0]) < 1
