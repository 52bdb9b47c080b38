"""One Gaussian with full covariance, the second baseline, against closed forms."""

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vae.likelihoods import Gaussian, StudentT, Table
from pyro_vae.likelihoods.full_gaussian import MIN_SHRINKAGE, FullGaussian, em, full_gaussian, shrinkage

D = 4
MEAN = torch.tensor([1.0, -20.0, 300.0, 0.0]).double()
A = torch.tensor([[1, 0, 0, 0], [0.8, 0.5, 0, 0], [-0.5, 0.2, 0.7, 0], [0.3, 0.3, 0.3, 0.2]]).double()
UNITS = torch.tensor([1.0, 0.01, 100.0, 5.0]).double()


def draw(n, seed=0, holes=0.0):
    generator = torch.Generator().manual_seed(seed)
    x = MEAN + torch.randn(n, D, generator=generator, dtype=torch.float64) @ A.mT * UNITS
    return x.masked_fill(torch.rand(n, D, generator=generator) < holes, torch.nan)


def test_density_of_held_out_data_is_that_of_scipy():
    train, test = draw(400).numpy(), draw(50, seed=1)
    fitted = full_gaussian(torch.from_numpy(train))
    share = shrinkage(torch.from_numpy(stats.zscore(train)))
    assert MIN_SHRINKAGE < share < 0.05
    covariance = np.cov(train.T, bias=True) * (1 - share + share * np.eye(D))
    np.testing.assert_allclose(fitted.loc, train.mean(0))
    np.testing.assert_allclose(fitted.covariance, covariance, rtol=1e-10)
    expected = stats.multivariate_normal(train.mean(0), covariance).logpdf(test)
    np.testing.assert_allclose(fitted.log_prob(test), expected, atol=1e-6)  # of scipy, by eigenvalues


def test_missing_entries_are_marginalized():
    fitted, x = full_gaussian(draw(400)), draw(40, seed=1, holes=0.4)
    x[0], x[1] = torch.nan, draw(1)
    expected = [0.0]
    for row in x[1:].numpy():
        o = ~np.isnan(row)
        covariance = fitted.covariance.numpy()[np.ix_(o, o)]
        expected.append(stats.multivariate_normal(fitted.loc.numpy()[o], covariance).logpdf(row[o]) if o.any() else 0.0)
    np.testing.assert_allclose(fitted.log_prob(x), expected, atol=1e-6)


def test_shrinkage_is_that_of_schaefer_and_strimmer():
    """Worked out by loops, from unbiased variances."""
    x = draw(12).numpy()
    N, u = len(x), stats.zscore(x, ddof=1)
    noise = total = 0.0
    for i in range(D):
        for j in range(D):
            if i != j:
                w = u[:, i] * u[:, j]
                noise += N / (N - 1) ** 3 * ((w - w.mean()) ** 2).sum()
                total += (N / (N - 1) * w.mean()) ** 2
    assert shrinkage(torch.from_numpy(stats.zscore(x))) == pytest.approx(noise / total, rel=1e-9)


def test_shrinkage_helps_where_data_are_few():
    train, test = torch.randn(2, 30, 40, generator=torch.Generator().manual_seed(0)).double()
    log_p = full_gaussian(train).log_prob(test).mean()
    assert log_p == pytest.approx(stats.norm.logpdf(test).sum(1).mean(), abs=3)
    duplicated = torch.cat([train[:, :3]] * 2, 1)
    assert full_gaussian(duplicated).log_prob(duplicated).isfinite().all()


def test_em_has_the_closed_form_of_monotone_missing_data():
    """x_2 is missing in some rows, x_1 is not (Anderson 1957): regression of the complete rows, moments of x_1."""
    x = draw(200)[:, :2]
    x = (x - x.mean(0)) / x.std(0)
    x[:80, 1] = torch.nan
    mean, covariance = em(x, shrink=0.0, least=torch.zeros(2).double(), tolerance=1e-10)
    one, (first, second) = x[:, 0], x[80:].unbind(1)
    slope = ((first - first.mean()) * second).mean() / first.var(correction=0)
    residual = second - second.mean() - slope * (first - first.mean())
    v = one.var(correction=0)
    expected = torch.stack([v, slope * v, slope * v, residual.square().mean() + slope.square() * v]).reshape(2, 2)
    torch.testing.assert_close(mean, torch.stack([one.mean(), second.mean() + slope * (one.mean() - first.mean())]))
    torch.testing.assert_close(covariance, expected)


def test_fit_with_holes_is_near_the_truth():
    fitted, truth = full_gaussian(draw(3000, holes=0.3)), FullGaussian(MEAN, (A @ A.mT) * UNITS.outer(UNITS))
    x = draw(2000, seed=1, holes=0.3)
    assert fitted.log_prob(x).mean() == pytest.approx(truth.log_prob(x).mean().item(), abs=0.02)


def test_it_does_not_depend_on_units():
    x = draw(100, holes=0.2)
    one, other = full_gaussian(x), full_gaussian(1000 * x + 5)
    torch.testing.assert_close(
        other.log_prob(1000 * x + 5) + (~x.isnan()).double().sum(1) * np.log(1000), one.log_prob(x)
    )


def test_constant_columns_have_the_models_scale():
    x = torch.cat([draw(100), torch.full((100, 2), 3.0).double()], 1)
    likelihood = Gaussian([6])
    likelihood.initialize_from(x)
    joint, alone = likelihood.full_gaussian(x), likelihood.marginals(x)
    np.testing.assert_allclose(joint.covariance.diagonal()[4:], likelihood.scale.item() ** 2)
    torch.testing.assert_close(joint.covariance.diagonal().sqrt(), alone.base_dist.scale)


def test_data_of_too_many_dimensions_have_none(monkeypatch):
    monkeypatch.setattr("pyro_vae.likelihoods.full_gaussian.MAX_DIM_INCOMPLETE", 3)
    assert full_gaussian(draw(20)) is not None
    assert full_gaussian(draw(20, holes=0.2)) is None
    monkeypatch.setattr("pyro_vae.likelihoods.full_gaussian.MAX_DIM", 3)
    assert StudentT([D]).full_gaussian(draw(20)) is None


def test_a_table_has_one_of_its_real_and_positive_columns():
    rng = np.random.default_rng(0)
    a = rng.normal(size=300)
    x = np.c_[10 * a, np.exp(a + 0.1 * rng.normal(size=300)), a > 0, rng.poisson(3, 300), np.full(300, 2.0)]
    kinds = {"a": "real", "b": "positive", "c": "binary", "d": "count", "e": "real"}
    columns = [{"name": name, "kind": kind} for name, kind in kinds.items()]
    columns[2]["categories"], columns[3]["family"] = [0, 1], "poisson"
    x[:40, 0], x[30:60, 1], x[5:9, 2] = np.nan, np.nan, np.nan
    x = torch.from_numpy(x)
    likelihood = Table([5], columns=columns)
    likelihood.initialize_from(x)
    joint = likelihood.full_gaussian(x)
    logs = torch.stack([x[:, 0], x[:, 1].log()], 1)
    expected = full_gaussian(logs).log_prob(logs) - logs[:, 1].nan_to_num(0.0)
    expected = expected + likelihood.marginals(x).log_prob_by_column(x)[:, 2:].sum(1)
    torch.testing.assert_close(joint.log_prob(x), expected)
    assert joint.log_prob(x).mean() > likelihood.marginals(x).log_prob(x).mean() + 0.5
    assert Table([1], columns=columns[:1]).full_gaussian(x[:, :1]) is None
