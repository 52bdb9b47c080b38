"""The likelihood of a table's rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pyro_vae.data.schema import Column, modelled, of_plain
from pyro_vae.distributions import Columns, Group, Row
from pyro_vae.errors import BadInput, one_of
from pyro_vae.likelihoods import category_columns, number_columns
from pyro_vae.likelihoods.column_family import Family
from pyro_vae.likelihoods.full_gaussian import FullGaussian, full_gaussian
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.likelihoods.moments import moments
from pyro_vae.networks.table_input import TableInput

SCALES = {"positive": "log", "count": "log1p", "categorical": "one_hot"}
"""Scale of the encoder's input; other kinds are linear."""
CONTINUOUS = ("real", "positive", "bounded")


class Table(Likelihood):
    """p(x | z) = Π_j p(x_j | z): each column of a table has the distribution of its kind.

    | kind        | distribution                                   |
    |-------------|------------------------------------------------|
    | real        | normal                                         |
    | positive    | log-normal                                     |
    | bounded     | beta, on its bounds                            |
    | count       | Poisson or negative binomial                   |
    | binary      | Bernoulli                                      |
    | categorical | categorical                                    |
    | ordinal     | categorical of a cumulative logit              |

    It is one distribution over rows x `[N, P]`, not a site for each column: programs keep the one site `x`, and all of
    Pyro's tools and this library's estimators apply. `p.log_prob_by_column(x)` shows what each column adds. Entries
    that are NaN were not observed and add 0.

    log p(x) is a density with respect to the units of the real, positive and bounded columns, and counts otherwise.
    Everything starts from the training data, so that h = 0 gives their marginals, with a quarter of the standard
    deviation if `scale="learned"`.

    Nazabal, Olmos, Ghahramani & Valera (2020), Handling incomplete heterogeneous data using VAEs,
    https://arxiv.org/abs/1807.03653.

    Args:
        data_shape: `[P]`.
        columns: the columns as plain data (`data.schema.Column`), which data sets of tables have.
        scale: of real and positive columns: `learned`, one number for each column, or `per_row`, from the decoder.

    Raises:
        BadInput: if the columns are missing or invalid.

    Example:
        >>> columns = [{"name": "age", "kind": "real"}, {"name": "sex", "kind": "binary", "categories": ["f", "m"]}]
        >>> likelihood = Table([2], columns)
        >>> p = likelihood(torch.zeros(5, *likelihood.param_shape))
        >>> p.log_prob_by_column(torch.tensor([[40.0, 1.0]])).shape
        torch.Size([5, 2])
    """

    unbounded = True
    location: Tensor
    """Subtracted from each column, `[P]`."""
    scale: Tensor
    """By which each column is divided then, `[P]`."""

    def __init__(self, data_shape: Sequence[int], columns: Any = None, scale: str = "learned") -> None:
        if columns is None:
            raise BadInput("likelihood=table needs a table: use data=table data.path=FILE.csv, or fit(DataFrame)")
        self.per_row = one_of("scale", scale, ("learned", "per_row")) == "per_row"
        described = of_plain(columns)
        own = modelled(described)
        if list(data_shape) != [len(own)]:
            raise BadInput(f"columns describes {len(own)} columns, but the data have shape {list(data_shape)}")
        groups: dict[tuple[str, int], list[int]] = {}
        for j, column in enumerate(own):
            groups.setdefault(_group(column), []).append(j)
        made = [_made(key, len(members), self.per_row) for key, members in groups.items()]
        widths = [family.num_params * len(members) for family, members in zip(made, groups.values(), strict=True)]
        super().__init__([sum(widths)])
        self.columns, self.own = described, own
        self.widths, self.members = widths, list(groups.values())
        self.discrete = not any(column.kind in CONTINUOUS for column in own)
        self.families = nn.ModuleList(made)
        self.register_buffer("location", torch.zeros(len(own)))
        self.register_buffer("scale", torch.ones(len(own)))
        for i, members in enumerate(self.members):
            self.register_buffer(f"index{i}", torch.tensor(members), persistent=False)

    def at(self, u: Tensor) -> Row:
        """Return p(x | z) for unconstrained parameters u `[..., 1, num_params]`."""
        parts = u.squeeze(-2).split(self.widths, -1)
        return self._row(
            [
                family.at(part.unflatten(-1, (len(members), family.num_params)))
                for family, part, members in zip(self._families, parts, self.members, strict=True)
            ],
            self.location,
            self.scale,
        )

    def _row(self, distributions: Sequence[Any], location: Tensor, scale: Tensor) -> Row:
        groups = [
            Group(self.get_buffer(f"index{i}"), distribution, family.filler)
            for i, (family, distribution) in enumerate(zip(self._families, distributions, strict=True))
        ]
        return Row(Columns(groups, location, scale), 1)

    @torch.no_grad()
    def initialize_from(self, x: Tensor) -> None:
        """Start from the observed values in x `[N, P]`."""
        location, scale = self._standardization(x)
        self.location.copy_(location)
        self.scale.copy_(scale)
        started = [
            family.start(y).flatten()
            for family, y in zip(self._families, self._observed(x, location, scale), strict=True)
        ]
        self.offset.copy_(torch.cat(started).unsqueeze(0))

    def marginals(self, x: Tensor) -> Row:
        """Return the distribution of each column's kind that fits its observed values."""
        location, scale = self._standardization(x)
        observed = self._observed(x, location, scale)
        fitted = [family.marginals(y) for family, y in zip(self._families, observed, strict=True)]
        return self._row(fitted, location, scale)

    def full_gaussian(self, x: Tensor) -> RealColumns | None:
        """Fit one Gaussian to the real columns and the logarithms of the positive ones; None if they are fewer than 2.

        The other columns, and constant ones, have their marginals.
        """
        positive = torch.tensor([column.kind == "positive" for column in self.own], device=x.device)
        real = torch.tensor([column.kind in ("real", "positive") for column in self.own], device=x.device)
        y = torch.where(positive, x.log(), x)
        varies = y.nan_to_num(torch.inf).amin(0) < y.nan_to_num(-torch.inf).amax(0)
        joint = (real & varies).nonzero().flatten()
        if len(joint) < 2 or (gaussian := full_gaussian(y[:, joint])) is None:
            return None
        return RealColumns(gaussian, joint, positive, self.marginals(x))

    def encoder_input(self, data_shape: Sequence[int]) -> TableInput:
        """Return the module that standardizes numbers and makes categories one-hot."""
        scales = [SCALES.get(column.kind, "linear") for column in self.own]
        return TableInput(scales, [len(column.categories) for column in self.own])

    def location_and_spread(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and scale of the encoder's input, before one-hot codes: two tensors `[P]`."""
        y = self.encoder_input([]).to(x.device).transform(x)
        found = [moments(_present(column, 0.0).unsqueeze(1)) for column in y.unbind(-1)]
        return torch.cat([m.mean for m in found]), torch.cat([m.unit for m in found])

    def check(self, x: Tensor) -> str | None:
        """Return None.

        Raises:
            BadInput: if an entry of x `[N, P]` does not fit its column.
        """
        for column, values in zip(self.own, x.unbind(-1), strict=True):
            bad, wanted = _misfits(column, values)
            if bad.any():
                raise BadInput(
                    f"column {column.name} is {column.kind} and needs {wanted}, but holds {values[bad][0].item():.6g}"
                )
        return None

    def check_observed(self, x: Tensor) -> str | None:
        """Check x `[N, P]` by `check`, which ignores NaN."""
        return self.check(x)

    @property
    def _families(self) -> Sequence[Family]:
        made: Any = self.families
        return made

    def _standardization(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what is subtracted from each column, and by which it is divided then: float64, `[P]`."""
        pairs = [_location_scale(*pair) for pair in zip(self.own, x.unbind(-1), strict=True)]
        location, scale = torch.tensor(pairs, dtype=torch.float64, device=x.device).unbind(-1)
        return location, scale

    def _observed(self, x: Tensor, location: Tensor, scale: Tensor) -> list[list[Tensor]]:
        """Return the observed values of each family's columns, standardized."""
        y = ((x.double() - location) / scale).unbind(-1)
        return [
            [_present(y[j], family.filler) for j in members]
            for family, members in zip(self._families, self.members, strict=True)
        ]


@dataclass(frozen=True)
class RealColumns:
    """One Gaussian over the real columns of rows `[N, P]`, and independent marginals of the others.

    Attributes:
        gaussian: of the real columns, and of the logarithms of positive ones.
        joint: their indices.
        positive: whether each column is positive, `[P]`.
        marginals: of all columns.
    """

    gaussian: FullGaussian
    joint: Tensor
    positive: Tensor
    marginals: Row

    def log_prob(self, x: Tensor) -> Tensor:
        """Return the log-density of the observed entries of x `[N, P]`: nats, float64, `[N]`."""
        x = x.double()
        log_x = x.log().where(self.positive, 0.0)
        y = torch.where(self.positive, log_x, x).index_select(1, self.joint)
        jacobian = log_x.index_select(1, self.joint).nan_to_num(0.0).sum(1)
        alone = self.marginals.log_prob_by_column(x).index_fill(1, self.joint, 0.0).sum(1)
        return self.gaussian.log_prob(y) - jacobian + alone


def _group(column: Column) -> tuple[str, int]:
    """Return the family of a column, and its number of categories if that matters."""
    if column.kind == "count":
        return str(column.family), 0
    return column.kind, len(column.categories) if column.kind in ("categorical", "ordinal") else 0


def _made(group: tuple[str, int], num_columns: int, per_row: bool) -> Family:
    """Make the family of a `_group` with so many columns."""
    name, num_categories = group
    makers: dict[str, Callable[[], Family]] = {
        "real": lambda: number_columns.Real(num_columns, per_row),
        "positive": lambda: number_columns.Positive(num_columns, per_row),
        "bounded": lambda: number_columns.Bounded(num_columns),
        "poisson": lambda: number_columns.Poisson(num_columns),
        "negative_binomial": lambda: number_columns.NegativeBinomial(num_columns),
        "binary": category_columns.Binary,
        "categorical": lambda: category_columns.Categorical(num_columns, num_categories),
        "ordinal": lambda: category_columns.Ordinal(num_columns, num_categories),
    }
    return makers[name]()


def _present(values: Tensor, filler: float) -> Tensor:
    """Return the values `[N]` that are not NaN, float64, or a filler if there are none."""
    present = values[~values.isnan()].double()
    return present if len(present) else present.new_full((1,), filler)


def _location_scale(column: Column, values: Tensor) -> tuple[float, float]:
    if column.kind == "real":
        data = moments(_present(values, 0.0).unsqueeze(1))
        return data.mean.item(), data.unit.item()
    if column.kind == "positive":
        return 0.0, _present(values, 1.0).log().mean().exp().item()
    if column.bounds is not None:
        low, high = column.bounds
        return low, high - low
    return 0.0, 1.0


def _misfits(column: Column, values: Tensor) -> tuple[Tensor, str]:
    """Return where values `[N]` do not fit a column, and what it needs; NaN fits."""
    if column.categories:
        n = len(column.categories)
        return (values < 0) | (values >= n) | (values.frac() != 0) & ~values.isnan(), f"codes 0 to {n - 1}"
    if column.kind == "count":
        return (values < 0) | (values.frac() != 0) & ~values.isnan(), "counts 0, 1, 2, …"
    if column.bounds is not None:
        low, high = column.bounds
        return (values <= low) | (values >= high), f"values strictly between {low:g} and {high:g}"
    too_large = values.abs() > 1e18
    if column.kind == "positive":
        return (values <= 0) | too_large, "positive values below 1e18"
    return too_large, "values below 1e18"
