"""Paired differences of log p(x) between models, over the same datapoints."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pyro_vae.analysis.difference import Difference
from pyro_vae.data import npy
from pyro_vae.errors import BadInput
from pyro_vae.marginal.summary import TOLERATED, number
from pyro_vae.runs.files import refuse_link

OVER = "± standard error over the same datapoints"
"""What the standard errors of a table are, for its title."""
UNITS = "(nats per datapoint); flagged: number of datapoints with an unreliable estimate"


@dataclass(frozen=True)
class Scores:
    """log p(x) of one model for each of N datapoints.

    Attributes:
        log_px: the estimates, `[N]`, nats.
        unreliable: whether each estimate is flagged as unreliable, `[N]`.
        row: row numbers `[N]` in the file or array of the datapoints; None in evaluations of earlier versions.
        training_se: standard error of the mean over trainings, if this is the mean of several runs, nats.
    """

    log_px: np.ndarray
    unreliable: np.ndarray
    row: np.ndarray | None = None
    training_se: float = 0.0

    @classmethod
    def read(cls, path: Path) -> Scores:
        """Read the arrays of an evaluation, NAME-K.npz.

        Raises:
            BadInput: if the file is missing, damaged, or not of an evaluation.
        """
        refuse_link(path)
        log_px, unreliable = (npy.read(str(path), name, "array") for name in ("log_px", "unreliable"))
        with zipfile.ZipFile(path) as archive:
            has_rows = "row.npy" in archive.namelist()
        row = npy.read(str(path), "row", "array") if has_rows else None
        kinds = [(log_px, "f"), (unreliable, "b"), *([] if row is None else [(row, "i")])]
        if log_px.ndim != 1 or any(a.shape != log_px.shape or a.dtype.kind != kind for a, kind in kinds):
            raise BadInput(f"{path} was not written by pyro_vae: its arrays have other shapes or types")
        return cls(log_px, unreliable, row)

    @classmethod
    def mean(cls, several: Sequence[Scores]) -> Scores:
        """Average log p(x) over runs, e.g. with other seeds; an estimate is flagged if that of one run is."""
        log_px = np.array([one.log_px for one in several], float)
        n = len(log_px)
        with np.errstate(invalid="ignore"):
            training_se = float(log_px.mean(1).std(ddof=1)) / math.sqrt(n) if n > 1 else 0.0
        unreliable = np.any([one.unreliable for one in several], axis=0)
        return cls(log_px.mean(0), unreliable, several[0].row, training_se)

    def minus(self, other: Scores) -> Difference:
        """Compare with another model on the same datapoints; `difference.se` counts the noise of training of means."""
        return Difference.of(self, other, math.hypot(self.training_se, other.training_se))

    def may_be_of_same_rows(self, other: Scores) -> bool:
        """Return whether the datapoints are as many, and have the same row numbers where both have some."""
        if len(self.log_px) != len(other.log_px):
            return False
        return self.row is None or other.row is None or bool((self.row == other.row).all())


def compare(scores: Mapping[str, Scores], reference: str) -> list[dict[str, Any]]:
    """Compare each of several models, by name, with the `reference`: a row of numbers for each, in order.

    The row of the reference has no difference.
    """
    rows = []
    for name, one in scores.items():
        row: dict[str, Any] = {"name": name, "log_px": float(one.log_px.mean()), "flagged": int(one.unreliable.sum())}
        rows.append(row if name == reference else row | vars(one.minus(scores[reference])))
    return rows


def doubts(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a warning for each row of `compare` with more than 1 % of the datapoints flagged in either model."""
    return [
        f"{100 * row['flagged_in_either'] / row['num_data']:.1f} % of the datapoints have an unreliable estimate by "
        f"{row['name']} or the reference, likely too low; without them the difference is "
        f"{with_error(row['difference_without_flagged'], row['se_without_flagged'])}"
        for row in rows
        if "difference" in row and row["flagged_in_either"] > TOLERATED * row["num_data"]
    ]


def table(rows: Sequence[Mapping[str, Any]], title: str) -> str:
    """Format the rows of `compare` as a table."""
    width = max(len(row["name"]) for row in rows)
    head = f"  {'':<{width}}  {'log_px':>10}  {'difference':>18}  {'z':>7}  flagged  in either  in both"
    return "\n".join([title, head, *(_row(row, width) for row in rows)])


def _row(row: Mapping[str, Any], width: int) -> str:
    start = f"  {row['name']:<{width}}  {number(_finite(row['log_px']), '10.3f'):>10}"
    if "difference" not in row:
        return f"{start}  {'reference':>18}  {'':>7}  {row['flagged']:7d}"
    return (
        f"{start}  {with_error(row['difference'], row['se']):>18}  {number(row['z'], '.1f'):>7}"
        f"  {row['flagged']:7d}  {row['flagged_in_either']:9d}  {row['flagged_in_both']:7d}"
    )


def with_error(value: float | None, se: float | None, form: str = "+.3f") -> str:
    """Write a difference, or another value, and its standard error if that is known."""
    return number(value, form) + ("" if se is None else f" ± {se:.3f}")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
