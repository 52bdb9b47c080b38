"""The epochs of a fit."""

from __future__ import annotations

SHOWN = 20
"""Rows that a printed table has at most."""


class History(list[dict[str, float]]):
    """The rows of a run's metrics.csv, one an epoch, nats per datapoint; prints as a table.

    `pandas.DataFrame(history)` makes a data frame of it.

    Example:
        >>> History([{"epoch": 1, "train/elbo": -8.25}])
        epoch  train/elbo
            1     -8.2500
    """

    def column(self, name: str) -> list[float]:
        """Return the values of one column, as in `history.column("val/elbo")`."""
        return [row[name] for row in self]

    def __repr__(self) -> str:
        if not self:
            return "History([])"
        names = list(self[0])
        left_out = max(0, len(self) - SHOWN)
        rows = [*self[: SHOWN // 2], *self[SHOWN // 2 + left_out :]]
        lines = [[str(v) if isinstance(v, int) else f"{v:.4f}" for v in row.values()] for row in rows]
        widths = [
            max(len(name), *map(len, column)) for name, column in zip(names, zip(*lines, strict=True), strict=True)
        ]
        table = [
            "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in (names, *lines)
        ]
        if left_out:
            table.insert(1 + SHOWN // 2, f"... {left_out} epochs ...")
        return "\n".join(table)
