import math

import pyro
import pytest
import torch
from torch.distributions import MultivariateNormal

from pyro_vae.errors import BadInput
from pyro_vae.marginal import ELBO, Importance, Prior
from pyro_vae.marginal.evidence import tail_length
from pyro_vae.marginal.pareto import pareto_k
from pyro_vae.objectives import Trace_ELBO
from pyro_vae.programs.chunks import chunks
from pyro_vae.programs.log_weights import log_weights, stream


def test_exact_posterior_gives_exact_log_px_with_zero_variance(ppca):
    """p(x, z) / q(z | x) = p(x) for every z where q is the posterior."""
    ppca.set_exact_guide()
    x = ppca.evidence.sample((50,))
    for num_samples in (1, 10):
        evidence = Importance(num_samples)(ppca.vae.model, ppca.vae.guide, x)
        torch.testing.assert_close(evidence.log_px, ppca.evidence.log_prob(x))
        torch.testing.assert_close(evidence.elbo, ppca.evidence.log_prob(x))
        torch.testing.assert_close(evidence.ess, torch.full((50,), float(num_samples)).double())
    assert (evidence.se < 1e-6).all()


def test_estimate_lies_within_its_standard_error_which_is_calibrated(ppca):
    ppca.set_exact_guide(widen=1.5)
    x = ppca.evidence.sample((400,))
    evidence = Importance(2000)(ppca.vae.model, ppca.vae.guide, x)
    z = (evidence.log_px - ppca.evidence.log_prob(x)) / evidence.se
    assert z.abs().max() < 4.5
    assert abs(z.mean()) < 4.5 / math.sqrt(400)
    # sd of a sample sd is 1/√(2n)
    assert abs(z.std() - 1) < 4.5 / math.sqrt(800)


def test_estimate_of_px_is_unbiased_for_any_guide(ppca):
    """E p̂(x) = p(x) on the natural scale, though E log p̂(x) < log p(x)."""
    ppca.set_exact_guide(widen=2.0)
    x = ppca.evidence.sample((1,)).expand(20_000, 5)
    evidence = Importance(2)(ppca.vae.model, ppca.vae.guide, x)
    ratio = (evidence.log_px - ppca.evidence.log_prob(x[:1])).exp()
    assert abs(ratio.mean() - 1) < 4.5 * ratio.std() / math.sqrt(len(ratio))
    bias = evidence.log_px.mean() - ppca.evidence.log_prob(x[0])
    assert bias < -4.5 * evidence.log_px.std() / math.sqrt(len(x))


def test_one_sample_is_the_one_sample_elbo_on_the_same_noise(small_vae):
    x = torch.rand(7, 6).double().round()
    torch.manual_seed(5)
    evidence = Importance(1)(small_vae.model, small_vae.guide, x)
    torch.manual_seed(5)
    loss = Trace_ELBO().differentiable_loss(small_vae.model, small_vae.guide, x)
    torch.testing.assert_close(evidence.log_px.sum(), -loss.detach())
    torch.testing.assert_close(evidence.log_px, evidence.elbo)
    assert evidence.se.isnan().all()


def test_log_weights_equal_plain_torch(ppca):
    x = ppca.evidence.sample((4,))
    torch.manual_seed(1)
    log_w = log_weights(ppca.vae.model, ppca.vae.guide, x, num_samples=3)
    torch.manual_seed(1)
    with torch.no_grad():
        q = ppca.vae.posterior(ppca.vae.encoder(x))
        z = q.loc + (q.scale_tril @ torch.randn(3, 4, 2, 1, dtype=torch.float64)).squeeze(-1)
        log_q = MultivariateNormal(q.loc, scale_tril=q.scale_tril).log_prob(z)
        log_p_z = MultivariateNormal(torch.zeros(2).double(), torch.eye(2).double()).log_prob(z)
        log_p_x = MultivariateNormal(z @ ppca.W.T + ppca.b, 0.25 * torch.eye(5).double()).log_prob(x)
    torch.testing.assert_close(log_w.detach(), log_p_x + log_p_z - log_q)


def test_chunks_bound_memory_whatever_the_numbers_are():
    for N in (1, 3, 500, 10_000):
        for K in (1, 7, 1000, 50_000):
            for size in (1, 10, 4096):
                n, k = chunks(N, K, size)
                assert 1 <= n <= N
                assert 1 <= k <= K
                assert n * k <= size


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 10_000])
def test_streaming_covers_every_pair_once_and_equals_the_direct_sum(small_vae, chunk_size):
    x, told = torch.rand(9, 6).double().round(), []
    kwargs = {"num_samples": 11, "chunk_size": chunk_size, "progress": told.append}
    blocks = [list(parts) for parts in stream(small_vae.model, small_vae.guide, x, **kwargs)]
    assert sum(told) == 9 * 11
    assert max(log_w.numel() for parts in blocks for log_w in parts) <= chunk_size
    log_w = torch.cat([torch.cat(parts) for parts in blocks], dim=1)
    assert log_w.shape == (11, 9)
    torch.manual_seed(2)
    evidence = Importance(11, chunk_size)(small_vae.model, small_vae.guide, x)
    torch.manual_seed(2)
    parts = [
        torch.cat(list(p)) for p in stream(small_vae.model, small_vae.guide, x, num_samples=11, chunk_size=chunk_size)
    ]
    w = torch.cat(parts, dim=1).exp()
    torch.testing.assert_close(evidence.log_px, w.mean(0).log())
    torch.testing.assert_close(evidence.ess, w.sum(0) ** 2 / (w**2).sum(0))
    torch.testing.assert_close(evidence.se, w.std(0) / (math.sqrt(11) * w.mean(0)))


def test_elbo_reports_the_mean_log_weight_and_its_error(small_vae):
    x = torch.rand(9, 6).double().round()
    torch.manual_seed(2)
    evidence = ELBO(50)(small_vae.model, small_vae.guide, x)
    torch.manual_seed(2)
    parts = [torch.cat(list(p)) for p in stream(small_vae.model, small_vae.guide, x, num_samples=50, chunk_size=4096)]
    log_w = torch.cat(parts, dim=1)
    torch.testing.assert_close(evidence.log_px, log_w.mean(0))
    torch.testing.assert_close(evidence.se, log_w.std(0) / math.sqrt(50))


def test_prior_is_naive_monte_carlo_and_keeps_the_guides_elbo(ppca):
    ppca.set_exact_guide()
    x = ppca.evidence.sample((100,))
    evidence = Prior(20_000)(ppca.vae.model, ppca.vae.guide, x)
    z = (evidence.log_px - ppca.evidence.log_prob(x)) / evidence.se
    reliable = evidence.pareto_k < 0.5
    assert reliable.sum() > 30
    assert z[reliable].abs().max() < 4.5
    torch.testing.assert_close(evidence.elbo, ppca.evidence.log_prob(x))  # the exact guide's


def test_needs_no_vae_but_programs_with_a_plate():
    """A hand-written model: p(z) = N(0, 1), p(x | z) = N(z, 1), guide N(x / 2, 1): p(x) = N(0, 2)."""
    dist = pyro.distributions

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x / 2, 1.0))

    x = torch.linspace(-2, 2, 9)
    evidence = Importance(5000)(model, guide, x)
    expected = dist.Normal(0.0, math.sqrt(2)).log_prob(x)
    assert ((evidence.log_px - expected).abs() < 4.5 * evidence.se).all()


@pytest.mark.parametrize("estimator", [Importance, ELBO, Prior])
@pytest.mark.parametrize("settings", [{"num_samples": 0}, {"num_samples": 1.5}, {"num_samples": 5, "chunk_size": -1}])
def test_refuses_bad_settings(estimator, settings):
    with pytest.raises(BadInput, match=r"^(num_samples|chunk_size)="):
        estimator(**settings)


def test_sums_over_blocks_are_those_of_all_weights(small_vae):
    """Also of a K' that ends within a block."""
    programs, x, K = (small_vae.model, small_vae.guide), torch.rand(9, 6).double().round(), 200
    torch.manual_seed(2)
    log_w = torch.cat([torch.cat(list(blocks)) for blocks in stream(*programs, x, num_samples=K, chunk_size=64)], 1)
    torch.manual_seed(2)
    evidence = Importance([20, K], chunk_size=64)(*programs, x)
    highest = log_w.topk(tail_length(K) + 1, 0).values
    torch.testing.assert_close(evidence.curve[0].log_px, log_w[:20].logsumexp(0) - math.log(20))
    torch.testing.assert_close(evidence.log_px, log_w.logsumexp(0) - math.log(K))
    torch.testing.assert_close(evidence.elbo, log_w.mean(0))
    torch.testing.assert_close(evidence.pareto_k, pareto_k(highest, K))
    torch.testing.assert_close(evidence.tail, highest - log_w.logsumexp(0))
    torch.manual_seed(2)
    torch.testing.assert_close(ELBO(K, chunk_size=64)(*programs, x).se, log_w.std(0) / math.sqrt(K))
