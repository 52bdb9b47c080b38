"""The likelihood of tables: each column has a proper distribution, in the user's units."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from conftest import COLUMNS
from scipy import stats
from torch import Tensor

from pyro_vae.distributions import Row
from pyro_vae.errors import BadInput
from pyro_vae.likelihoods import Table
from pyro_vae.likelihoods.scaled import GAIN

NAN = torch.nan
KINDS = {
    "real": {},
    "positive": {},
    "bounded": {"bounds": [0.0, 100.0]},
    "poisson": {"kind": "count", "family": "poisson"},
    "negative_binomial": {"kind": "count", "family": "negative_binomial"},
    "binary": {"categories": ["no", "yes"]},
    "categorical": {"categories": ["a", "b", "c", "d"]},
    "ordinal": {"categories": [1, 2, 3, 4]},
}
CONTINUOUS = ("real", "positive", "bounded")


def column(kind: str, name: str = "a") -> dict:
    return {"name": name, "kind": kind, **KINDS[kind]}


def values(kind: str, n: int = 500) -> Tensor:
    """Draws of a column of that kind."""
    torch.manual_seed(1)
    return {
        "real": lambda: 170 + 10 * torch.randn(n),
        "positive": lambda: (8 + 0.5 * torch.randn(n)).exp(),
        "bounded": lambda: 100 * dist.Beta(2.0, 3.0).sample([n]),
        "poisson": lambda: torch.poisson(torch.full([n], 3.0)),
        "negative_binomial": lambda: dist.NegativeBinomial(2.0, torch.tensor(0.6)).sample([n]),
        "binary": lambda: (torch.rand(n) < 0.3).float(),
        "categorical": lambda: torch.randint(4, [n]).float(),
        "ordinal": lambda: torch.randint(4, [n]).float().minimum(torch.tensor(2.0)),
    }[kind]()


def started(kind: str, scale: str = "learned", dtype: torch.dtype = torch.float64) -> tuple[Table, Tensor]:
    x = values(kind).unsqueeze(1)
    likelihood = Table([1], [column(kind)], scale).to(dtype)
    likelihood.initialize_from(x)
    return likelihood, x.to(dtype)


def total(likelihood: Table, h: Tensor, kind: str) -> Tensor:
    """Sum or integral of p(x | z) over all x, for each row of h."""
    p = likelihood(h.unsqueeze(-2))
    if kind in CONTINUOUS:
        grid = {
            "real": torch.linspace(-300, 700, 200_001),
            "positive": torch.logspace(-8, 20, 200_001),
            "bounded": 100 * torch.linspace(-25, 25, 200_001).double().sigmoid(),
        }[kind].double()
        return torch.trapezoid(p.log_prob(grid.reshape(-1, 1, 1)).exp(), grid, dim=0)
    top = {"poisson": 400, "negative_binomial": 4000, "binary": 2}.get(kind, 4)
    return p.log_prob(torch.arange(top).double().reshape(-1, 1, 1)).exp().sum(0)


@pytest.mark.parametrize("scale", ["learned", "per_row"])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_sums_or_integrates_to_1(kind, scale):
    likelihood, _ = started(kind, scale)
    h = torch.randn(4, likelihood.param_shape[1]).double()
    assert torch.allclose(total(likelihood, h, kind), torch.ones(4).double(), atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_marginals_fit_the_observed_values(kind):
    likelihood, x = started(kind)
    holes = torch.cat([x, torch.full_like(x, NAN)])
    fitted = likelihood.marginals(holes)
    assert fitted.log_prob(x).mean() == pytest.approx(likelihood.marginals(x).log_prob(x).mean().item())
    assert fitted.log_prob(holes)[len(x) :].eq(0).all()
    other = fitted.sample([2000])
    near = torch.cat([x.mean(0), x.std(0)]) - torch.cat([other.mean(0), other.std(0)])
    assert (near.abs() < 0.2 * x.std()).all()


@pytest.mark.parametrize("kind", KINDS)
def test_h_of_0_gives_the_marginals(kind):
    likelihood, x = started(kind, "per_row")
    p = likelihood(torch.zeros(likelihood.param_shape).double())
    assert p.log_prob(x).mean().item() == pytest.approx(likelihood.marginals(x).log_prob(x).mean().item(), abs=0.02)


@pytest.mark.parametrize("kind", ["real", "positive"])
def test_densities_are_in_the_units_of_the_data(kind):
    likelihood, x = started(kind)
    other = Table([1], [column(kind)]).double()
    other.initialize_from(1000 * x)
    h = torch.randn(len(x), *likelihood.param_shape).double()
    difference = likelihood(h).log_prob(x) - other(h).log_prob(1000 * x)
    assert torch.allclose(difference, torch.tensor(1000.0).log().double(), atol=1e-6)


def test_a_real_column_is_a_normal_of_the_users_units():
    likelihood, x = started("real")
    h = torch.randn(len(x), *likelihood.param_shape).double()
    loc, scale = likelihood.families[0].loc_scale(h + likelihood.offset)
    normal = dist.Normal(likelihood.location + likelihood.scale * loc, likelihood.scale * scale)
    assert likelihood.location.item() == pytest.approx(x.mean().item())
    assert torch.allclose(likelihood(h).log_prob(x), normal.log_prob(x).squeeze(-1))


@pytest.mark.parametrize("num_categories", [2, 3, 6])
def test_ordinal_columns_are_pyros_ordered_logistic(num_categories):
    columns = [{"name": "a", "kind": "ordinal", "categories": list(range(num_categories))}]
    likelihood = Table([1], columns).double()
    likelihood.initialize_from(torch.arange(num_categories).repeat(5).unsqueeze(1).double())
    ordinal = likelihood.families[0]
    h = torch.randn(7, 1, 1).double()
    gaps = 0.001 + torch.nn.functional.softplus(GAIN * ordinal.raw_gaps)
    expected = dist.OrderedLogistic(h, torch.cat([GAIN * ordinal.raw_first, gaps], -1).cumsum(-1))
    k = torch.arange(num_categories).double().reshape(-1, 1, 1)
    assert torch.allclose(likelihood(h).log_prob(k), expected.log_prob(k.unsqueeze(-1)).flatten(1))
    far = likelihood(torch.tensor([[[1e4]], [[-1e4]]]).double()).log_prob(k)
    assert far.isfinite().all()


def mixed() -> tuple[Table, Tensor]:
    """All kinds in one table, with holes."""
    names = list(KINDS)
    likelihood = Table([8], [column(kind, kind) for kind in names])
    x = torch.stack([values(kind) for kind in names], 1)
    x[torch.rand(x.shape) < 0.3] = NAN
    likelihood.initialize_from(x)
    return likelihood, x


def test_a_row_is_the_sum_of_its_columns_and_holes_add_nothing():
    likelihood, x = mixed()
    h = torch.randn(len(x), *likelihood.param_shape, requires_grad=True)
    p = likelihood(h)
    assert isinstance(p, Row)
    assert (p.batch_shape, p.event_shape) == ((500,), (8,))
    by_column = p.log_prob_by_column(x)
    assert torch.allclose(p.log_prob(x), by_column.sum(-1))
    assert torch.equal(by_column == 0, x.isnan())
    for j, kind in enumerate(KINDS):  # each column alone has the same log-likelihood
        alone = Table([1], [column(kind)])
        alone.initialize_from(x[:, j : j + 1])
        zero = torch.zeros(1, *alone.param_shape)
        of_row = likelihood(torch.zeros(1, *likelihood.param_shape)).log_prob_by_column(x)[:, j]
        assert torch.allclose(alone(zero).log_prob(x[:, j : j + 1]), of_row, atol=1e-4)
    p.log_prob(x).sum().backward()
    assert h.grad.isfinite().all()


def test_a_mask_leaves_out_entries():
    likelihood, x = mixed()
    p = likelihood(torch.zeros(len(x), *likelihood.param_shape))
    observed = torch.rand(x.shape) < 0.5
    masked = p.base_dist.mask(observed).to_event(1)
    assert torch.allclose(masked.log_prob(x), p.log_prob(torch.where(observed, x, NAN)))


def test_draws_fit_their_columns():
    likelihood, _ = mixed()
    p = likelihood(2 * torch.randn(3, *likelihood.param_shape))
    draws = p.sample([2000])
    assert draws.shape == (2000, 3, 8)
    assert likelihood.check(draws.flatten(0, 1)) is None
    numbers = [j for j, kind in enumerate(KINDS) if kind not in ("categorical", "ordinal")]
    se = draws.std(0) / 2000**0.5
    assert ((draws.mean(0) - p.mean).abs() < 5 * se + 1e-6)[:, numbers].all()
    assert torch.equal(p.mean[:, 6], draws[..., 6].mode(0).values)  # the most probable category
    assert torch.equal(p.expand([4, 3]).log_prob(draws[0])[2], p.log_prob(draws[0]))


@pytest.mark.parametrize(
    ("j", "value", "message"),
    [
        (0, 1e20, "column real is real and needs values below 1e18"),
        (1, 0.0, "column positive is positive and needs positive values"),
        (2, 100.0, "column bounded is bounded and needs values strictly between 0 and 100, but holds 100"),
        (3, 1.5, "column poisson is count and needs counts 0, 1, 2, …, but holds 1.5"),
        (5, 2.0, "column binary is binary and needs codes 0 to 1, but holds 2"),
        (7, -1.0, "column ordinal is ordinal and needs codes 0 to 3"),
    ],
)
def test_values_that_do_not_fit_are_named(j, value, message):
    likelihood, x = mixed()
    assert likelihood.check(x) is None
    x[3, j] = value
    with pytest.raises(BadInput, match=message):
        likelihood.check(x)


def test_the_encoder_sees_standardized_numbers_and_one_hot_categories():
    likelihood, x = mixed()
    standardize = likelihood.encoder_input([8])
    standardize.set(*likelihood.location_and_spread(x))
    seen = standardize(x)
    assert seen.shape == (500, 7 + 4)
    complete = ~x[:, :6].isnan().any(1)
    assert (seen[complete, :6].mean(0).abs() < 0.3).all()
    assert ((seen[complete, :6].std(0) - 1).abs() < 0.3).all()
    (rows,) = (~x[:, 6].isnan()).nonzero(as_tuple=True)
    assert torch.equal(seen[rows, 7:].argmax(1), x[rows, 6].long())
    nothing = standardize(torch.full((1, 8), NAN))
    assert torch.equal(nothing, torch.zeros(1, 11))


def test_discrete_tables_have_probabilities():
    assert Table([4], COLUMNS[1:]).discrete
    assert not Table([5], COLUMNS).discrete


@pytest.mark.parametrize(
    ("shape", "columns", "message"),
    [
        ([2], None, "likelihood=table needs a table: use data=table"),
        ([2], COLUMNS, r"columns describes 5 columns, but the data have shape \[2\]"),
        ([1], [{"name": "a", "kind": "word"}], "the kind of column a=word is unknown"),
        ([1], [{"kind": "real"}], "columns holds .*, which is not a column"),
        ([2], [COLUMNS[0], COLUMNS[0]], "columns names a twice"),
        ([1], [{"name": "a", "kind": "binary"}], r"column a: categories=\(\) must be a list"),
        ([1], [{"name": "a", "kind": "bounded", "bounds": [1, 0]}], "must be in increasing order"),
        ([1], "a", "columns=a must be a list"),
    ],
)
def test_invalid_columns_are_refused(shape, columns, message):
    with pytest.raises(BadInput, match=message):
        Table(shape, columns)


def test_the_mean_of_a_mixture_has_the_likeliest_category():
    likelihood = Table([2], [column("real"), column("categorical", "b")])
    h = torch.tensor([[1.0, 0.0, 3.0, 2.9, 0.0], [4.0, 0.0, 0.0, 2.9, 3.0]])  # modes 1 and 3, but 2 on average
    mean = likelihood(h.reshape(2, 1, 1, 5)).base_dist.mean_of_mixture(torch.tensor([[0.95], [0.05]]))
    assert torch.allclose(mean, torch.tensor([[1.15, 1.0]]))
    mean = likelihood(h.reshape(2, 1, 1, 5)).base_dist.mean_of_mixture(torch.tensor([[0.5], [0.5]]))
    assert torch.allclose(mean, torch.tensor([[2.5, 2.0]]))


def test_marginals_of_numbers_are_those_of_scipy():
    rng = np.random.default_rng(0)
    x = np.c_[100 * rng.beta(2, 3, 500), np.exp(8 + 0.5 * rng.normal(size=500)), rng.negative_binomial(2, 0.4, 500)]
    columns = [
        {"name": "a", "kind": "bounded", "bounds": [0.0, 100.0]},
        {"name": "b", "kind": "positive"},
        {"name": "c", "kind": "count", "family": "negative_binomial"},
    ]
    found = Table([3], columns).double().marginals(torch.from_numpy(x)).log_prob_by_column(torch.from_numpy(x))
    u, log_x, m = x[:, 0] / 100, np.log(x[:, 1]), x[:, 2].mean() + 0.5 / 500
    both, alpha = u.mean() * (1 - u.mean()) / u.var() - 1, (x[:, 2].var() - m) / m**2
    expected = np.c_[
        stats.beta(u.mean() * both, (1 - u.mean()) * both).logpdf(u) - math.log(100),
        stats.norm(log_x.mean(), log_x.std()).logpdf(log_x) - log_x,
        stats.nbinom(1 / alpha, 1 / (1 + alpha * m)).logpmf(x[:, 2]),
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "to"), [("real", lambda x: x), ("positive", np.log)])
def test_a_learned_scale_starts_at_a_quarter_of_the_standard_deviation(kind, to):
    x = np.exp(3 + 0.5 * np.random.default_rng(0).normal(size=(400, 1)))
    likelihood = Table([1], [{"name": "a", "kind": kind}]).double()
    likelihood.initialize_from(torch.from_numpy(x))
    y = to(x[:, 0])
    expected = stats.norm(y.mean(), 0.25 * y.std()).logpdf(y) - (y if kind == "positive" else 0)
    found = likelihood(torch.zeros(likelihood.param_shape).double()).log_prob(torch.from_numpy(x))
    np.testing.assert_allclose(found.detach(), expected, rtol=1e-4, atol=1e-4)


def test_a_value_that_rounding_puts_on_its_bound_has_a_density():
    likelihood = Table([1], [{"name": "a", "kind": "bounded", "bounds": [-90.0, 90.0]}])
    x = torch.tensor([[10.0], [20.0], [-60.0], [89.99999]])  # (x + 90) / 180 is 1 in float32
    assert likelihood.check(x) is None
    likelihood.initialize_from(x[:3])
    raw = torch.zeros(4, *likelihood.param_shape, requires_grad=True)
    log_p = likelihood(raw).log_prob(x)
    assert log_p.isfinite().all()
    (gradient,) = torch.autograd.grad(log_p.sum(), raw)
    assert gradient.isfinite().all()
    exact = likelihood.double()(raw.detach().double()).log_prob(x.double())
    torch.testing.assert_close(log_p[:3].detach().double(), exact[:3], rtol=1e-5, atol=1e-5)
