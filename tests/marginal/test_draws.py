"""Importance draws that are kept, and ArviZ objects made of them."""

import math
import sys

import numpy as np
import pytest
import torch

from pyro_vae.errors import BadInput
from pyro_vae.marginal import Importance, LogEvidence

N, K = 7, 4000


@pytest.fixture
def x(ppca):
    return ppca.evidence.sample((N,))


def evidence(ppca, x, estimator="importance", **settings):
    return ppca.vae.evidence(x, estimator=estimator, **{"num_samples": K, "keep_draws": True, **settings})


def test_kept_weights_are_those_of_the_kept_draws_and_make_the_estimate(ppca, x):
    ppca.set_exact_guide(widen=1.3)
    found = evidence(ppca, x, num_samples=50, chunk_size=30)  # chunks of draws and of datapoints
    z, log_w = found.draws.z["z"], found.draws.log_weights
    assert (z.shape, log_w.shape) == ((50, N, 2), (50, N))
    with torch.no_grad():
        expected = ppca.vae.p_z().log_prob(z) + ppca.vae.p_x(z).log_prob(x) - ppca.vae.q_z(x).log_prob(z)
    torch.testing.assert_close(log_w, expected)
    torch.testing.assert_close(found.log_px, log_w.logsumexp(0) - math.log(50))
    assert evidence(ppca, x, keep_draws=False).draws is None


@pytest.mark.parametrize("settings", [{}, {"estimator": "refined", "family": "student_t", "chunk_size": 9000}])
def test_resampled_draws_have_the_moments_of_the_posterior(ppca, x, settings):
    ppca.set_exact_guide(widen=1.3, shift=0.5)
    torch.manual_seed(0)
    found = evidence(ppca, x, **settings)
    torch.testing.assert_close(found.log_px, found.draws.log_weights.logsumexp(0) - math.log(K))
    z = found.draws.posterior(4000)["z"]
    posterior = ppca.posterior(x)
    torch.testing.assert_close(z.mean(0), posterior.mean, atol=0.06, rtol=0)  # 4 s.e.; the guide is 0.2 away
    each = posterior.covariance_matrix.expand(N, 2, 2)
    torch.testing.assert_close(torch.stack([z[:, i].T.cov() for i in range(N)]), each, atol=0.07, rtol=0)
    assert not torch.equal(z, found.draws.posterior(4000, seed=1)["z"])


def test_arviz_gets_weights_draws_and_diagnostics(ppca, x):
    az = pytest.importorskip("arviz")
    ppca.set_exact_guide(widen=1.3)
    found = evidence(ppca, x, num_samples=300)
    data = found.to_arviz(num_draws=40)
    per_datapoint = data["log_evidence"]
    for name in ("log_px", "pareto_k", "ess", "unreliable"):
        np.testing.assert_array_equal(per_datapoint[name].values, getattr(found, name).numpy())
    np.testing.assert_array_equal(data["importance"]["log_weights"].values[0], found.draws.log_weights.numpy())
    z = data["posterior"]["z"]
    assert z.dims == ("chain", "draw", "datapoint", "z_dim_0")
    np.testing.assert_array_equal(z.values[0], found.draws.posterior(40)["z"].numpy())
    assert len(az.summary(data, coords={"datapoint": [0, 3]})) == 4
    without = evidence(ppca, x, num_samples=300, keep_draws=False).to_arviz()
    assert "posterior" not in without
    assert "log_evidence" in without


def test_arviz_compares_models_as_paired_differences(ppca, x):
    az = pytest.importorskip("arviz")
    ppca.set_exact_guide(widen=1.3)
    one, other = (evidence(ppca, x + shift, num_samples=300) for shift in (0.0, 2.0))
    d = (one.log_px - other.log_px).numpy()
    assert d.sum() > 0
    table = az.compare({"one": one.to_elpd(), "other": other.to_elpd()})
    assert list(table.index) == ["one", "other"]
    assert abs(table["elpd_diff"]["other"]) == pytest.approx(d.sum(), rel=0.1)  # ArviZ 1 rounds
    assert table["dse"]["other"] == pytest.approx(math.sqrt(N) * d.std(), rel=0.1)
    az.plot_khat(one.to_elpd())
    assert one.to_elpd().good_k == one.k_threshold


def test_without_arviz_the_way_to_install_it_is_told(ppca, x, monkeypatch):
    found = evidence(ppca, x, num_samples=10)
    monkeypatch.setitem(sys.modules, "arviz", None)
    for make in (found.to_arviz, found.to_elpd):
        with pytest.raises(BadInput, match=r"needs ArviZ: pip install -e '.\[arviz\]'"):
            make()


def test_draws_that_do_not_fit_into_memory_are_refused(ppca, x):
    with pytest.raises(BadInput, match="keep_draws=True with num_samples=4000000000 takes"):
        evidence(ppca, x, num_samples=4_000_000_000)
    with pytest.raises(BadInput, match="num_draws=0"):
        evidence(ppca, x, num_samples=10).to_arviz(num_draws=0)
    with pytest.raises(BadInput, match="keep_draws=3 must be true or false"):
        Importance(keep_draws=3)


def test_the_standard_error_of_an_elpd_is_that_of_a_sum():
    pytest.importorskip("arviz")
    log_px = torch.tensor([-1.0, -2.0, -6.0, 4.0]).double()
    zero = 0 * log_px
    found = LogEvidence(log_px, zero, zero + 99, zero, log_px, 100).to_elpd()
    assert found["se"] == pytest.approx(2 * np.std(log_px.numpy()))
