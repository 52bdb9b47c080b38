"""Lower and upper bounds against exact log p(x), on models with one mode and with two."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.errors import BadInput
from pyro_vae.marginal import Sandwich, chains, sandwich
from pyro_vae.marginal.chains import Chains
from pyro_vae.marginal.evidence import LogEvidence, accumulate
from pyro_vae.marginal.hmc import sample_posterior
from pyro_vae.marginal.jump import jump
from pyro_vae.marginal.mixture import Mixture
from pyro_vae.marginal.rhat import split_rhat
from pyro_vae.marginal.sandwich import iw_eubo, mix, struski
from pyro_vae.marginal.summary import summarize, table
from pyro_vae.programs.density import value_and_grad

SHORT = partial(Sandwich, num_samples=500, num_starts=4, max_modes=2, num_chains=16, num_warmup=15, num_draws=24)


def test_bounds_of_linear_models_enclose_the_exact_value(ppca):
    x = ppca.evidence.sample((50,))
    ppca.set_exact_guide(widen=1.5)
    evidence = ppca.vae.evidence(x, estimator="sandwich", num_samples=500, num_chains=16, num_warmup=15, num_draws=24)
    truth, extra = ppca.evidence.log_prob(x), evidence.extra
    for bound, se in ((evidence.log_px, evidence.se), (extra["log_px_upper"], extra["log_px_upper_se"])):
        z = (bound - truth) / se
        assert z.abs().max() < 4.5
        assert 0.6 < z.std() < 1.4
    assert extra["gap"].abs().max() < 0.01
    assert extra["certified"].mean() > 0.95
    assert extra["rhat"].median() < 1.05
    above = extra["struski_upper"] - truth
    assert above.mean() == pytest.approx(0, abs=4 * evidence.se.square().sum().sqrt().item() / 50)


@pytest.mark.slow
def test_with_few_samples_the_bounds_are_apart_and_the_truth_between(ppca):
    """Where K = 2, the posterior draws matter."""
    x = ppca.evidence.sample((300,))
    ppca.set_exact_guide(widen=2.0)
    evidence = SHORT(num_samples=2, guide_weight=0.9)(ppca.vae.model, ppca.vae.guide, x)
    for bound, sign in ((evidence.extra["log_px_upper"], 1), (evidence.log_px, -1)):
        above = sign * (bound - ppca.evidence.log_prob(x))
        assert above.mean() > 4 * above.std() / math.sqrt(300)


def bimodal(x, nuisance=0):
    """z = ±4, narrowly, of which the first has a fifth of the prior's mass; x hardly tells which."""
    modes = dist.Normal(torch.tensor([-4.0, 4.0]).double(), 0.3)
    prior = dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.2, 0.8]).double()), modes)
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", prior.expand([len(x)]))
        pyro.sample("x", dist.Normal(0.1 * z, 1.0), obs=x)
        unrelated(nuisance)


def unimodal(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x)).double(), 1.0))
        pyro.sample("x", dist.Normal(0.1 * z, 1.0), obs=x)


def at(loc, x, nuisance=0):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(torch.tensor(loc).double(), 0.4).expand([len(x)]))
        unrelated(nuisance)


def unrelated(D):
    """Sample latents that x says nothing about, so that there are too many for draws from the prior to help."""
    if D:
        pyro.sample("w", dist.Normal(torch.zeros(D).double(), 1.0).to_event(1))


def log_px_on_a_grid(x):
    z = torch.linspace(-8, 8, 4001).double()
    each = torch.stack([math.log(w) + dist.Normal(m, 0.3).log_prob(z) for w, m in ((0.2, -4.0), (0.8, 4.0))])
    joint = each.logsumexp(0) + dist.Normal(0.1 * z, 1.0).log_prob(x.unsqueeze(-1))
    return joint.logsumexp(-1) + (z[1] - z[0]).log()


@pytest.mark.parametrize("loc", [pytest.param(-4.0, marks=pytest.mark.slow), 4.0])
def test_bounds_and_certificate_of_a_bimodal_posterior(loc):
    x = torch.linspace(-2, 2, 30).double()
    evidence = SHORT(num_starts=24)(bimodal, partial(at, loc), x)
    truth, extra = log_px_on_a_grid(x), evidence.extra
    found = extra["num_modes"] == 2
    assert found.double().mean() > 0.7
    assert (((evidence.log_px - truth) / evidence.se).abs() < 4)[found].all()
    assert (((extra["log_px_upper"] - truth) / extra["log_px_upper_se"]).abs() < 4)[found].all()
    assert extra["certified"][found].mean() > 0.8


def test_datapoints_that_are_not_certified_get_longer_chains(monkeypatch):
    runs = []

    def recorded(evaluate, u, scale_tril, num_warmup, num_samples, *args, **kwargs):
        runs.append((num_samples, u.shape[1]))
        return sample_posterior(evaluate, u, scale_tril, num_warmup, num_samples, *args, **kwargs)

    monkeypatch.setattr(chains, "sample_posterior", recorded)
    monkeypatch.setattr(
        sandwich, "split_rhat", lambda draws: 1 + 0.1 * (torch.arange(draws.shape[2]) > 1) * (len(draws) < 50)
    )
    estimate = SHORT(num_draws=16, num_warmup=2)
    evidence = estimate(unimodal, partial(at, 0.0), torch.zeros(5).double())
    assert runs == [(16, 5), (64, 4)]  # three of them, rounded up to a power of two
    assert (evidence.extra["rhat"] == 1).all()


def test_certified_is_conditional_on_the_modes_that_were_found():
    """One start in one of two modes: both bounds agree on its share, which no diagnostic sees.

    In ten dimensions or fewer, draws from the prior would.
    """
    x = torch.zeros(5).double()
    evidence = SHORT(num_starts=1)(partial(bimodal, nuisance=10), partial(at, 4.0, nuisance=10), x)
    assert (evidence.extra["certified"] == 1).any()
    assert (evidence.extra["log_px_upper"] < log_px_on_a_grid(x) - 0.15).all()  # −log 0.8 = 0.22 too low


def chains_of(N, start, jumps):
    """Run chains that start at the given modes of a fifth and four fifths; return R̂, their modes and `mix`."""
    shares = torch.tensor([[0.2], [0.8]]).double().log().expand(2, N)
    loc = torch.tensor([-4.0, 4.0]).double()[:, None, None].expand(2, N, 1)
    q = Mixture(shares, loc, torch.full((2, N, 1, 1), 0.3).double(), torch.full((N,), 5.0).double())
    gaussian = replace(q, df=torch.full((N,), math.inf).double())
    evaluate = partial(value_and_grad, gaussian.log_prob)
    draws, _ = sample_posterior(
        evaluate, q.loc[start], q.scale_tril[start], 20, 100, 4, jump=partial(jump, q) if jumps else None
    )
    chains = Chains(draws, torch.tensor(start).unsqueeze(1).expand(-1, N))
    modes = chains.modes(q)
    return split_rhat(draws), modes, mix(modes, chains.start, torch.full((N,), 2))


@pytest.mark.parametrize("start", [[0, 1, 0, 1], [1, 1, 1, 1]])
def test_chains_that_stay_in_their_modes_do_not_mix(start):
    """Without jumps; started at one of two modes, R̂ alone would be content."""
    rhat, _, mixed = chains_of(3, start, jumps=False)
    assert not mixed.any()
    assert (rhat < 1.1).all() if len(set(start)) == 1 else (rhat > 1.5).all()


def test_jumps_visit_the_modes_in_proportion_to_their_mass():
    rhat, modes, mixed = chains_of(40, [0, 1, 0, 1], jumps=True)
    assert mixed.all()
    assert (rhat < 1.05).double().mean() > 0.9
    share = (modes == 0).double().mean((0, 1))
    assert share.mean() == pytest.approx(0.2, abs=4 * share.std().item() / math.sqrt(40))
    assert share.std() < 0.1


def test_mix_wants_every_mode_to_be_met_by_chains_from_another_one():
    start = torch.tensor([0, 0, 1]).unsqueeze(1)
    two, one = torch.tensor([2]), torch.tensor([1])

    def met(*modes, num_modes=two, start=start):
        return bool(mix(torch.tensor(modes).unsqueeze(-1), start, num_modes))

    assert met([0, 1, 1], [1, 0, 0])
    assert met([0, 0, 0], [0, 0, 0])  # the second mode was left, and holds nothing
    assert not met([0, 0, 1], [0, 0, 1])  # nobody leaves
    assert not met([0, 0, 1], [0, 0, 0])  # nobody visits the second mode
    assert not met([0, 0, 1], [0, 1, 1])  # nobody visits the first one
    assert not met([0, 0, 0], [0, 0, 0], start=0 * start)  # nobody started at the second
    assert not met([0, 1, 1], [1, 0, 0], num_modes=two + 1)  # nobody started at the third
    assert met([0, 0, 0], [0, 0, 0], start=0 * start, num_modes=one)


def test_the_upper_bound_is_exact_for_an_exact_proposal_and_above_for_others():
    exact = torch.full((7, 1), -3.0).double()
    torch.testing.assert_close(iw_eubo(exact[:2], exact), exact[:2])  # K − 1 = 7 draws and z*: the mean of 8
    torch.manual_seed(0)
    K, N = 3, 200_000
    q, posterior = dist.Normal(torch.tensor(1.0).double(), 1.0), dist.Normal(torch.tensor(0.0).double(), 1.0)

    def log_w(z):
        return posterior.log_prob(z) - q.log_prob(z)  # log p(x) = 0

    bound = iw_eubo(log_w(posterior.sample((1, N))), log_w(q.sample((K - 1, N))))
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.hermite_e.hermegauss(40))
    weights = weights / weights.sum()
    star, one, two = torch.meshgrid(nodes, 1 + nodes, 1 + nodes, indexing="ij")
    of_nodes = torch.stack([log_w(star), log_w(one), log_w(two)]).logsumexp(0) - math.log(3)
    truth = (of_nodes * weights[:, None, None] * weights[:, None] * weights).sum()
    assert truth > 0.1
    assert bound.mean().item() == pytest.approx(truth.item(), abs=4 * bound.std().item() / math.sqrt(N))


def test_struskis_bound_lies_above_in_expectation():
    """Of weights 0.5 and 2, with probabilities 2/3 and 1/3: p(x) = 1."""
    torch.manual_seed(0)
    log_w = torch.where(torch.rand(2, 100_000) < 2 / 3, -1.0, 1.0).double() * math.log(2)
    bound = struski(log_w)
    expected = (2 / 3) * math.log(0.5) + (1 / 3) * math.log(2) + (2 / 3) * 2 + (1 / 3) * 0.5 - 1
    assert bound.mean().item() == pytest.approx(expected, abs=4 * bound.std().item() / math.sqrt(100_000))
    assert expected > 0.1


def test_the_summary_tells_the_largest_certified_gap_and_the_noise_of_the_mean():
    each = torch.full((3,), 50.0).double()
    extra = {
        "gap": torch.tensor([0.1, 0.3, 9.0]),
        "certified": torch.tensor([1.0, 1.0, 0.0]),
        "rhat": torch.tensor([1.0, 1.2, math.inf]),
        "log_px_upper_se": torch.tensor([0.0, 0.3, 0.4]),
    }
    reliable = torch.ones(3, dtype=torch.bool)
    evidence = LogEvidence(-each, 0 * each, each, 0 * each, -each, 500, extra=extra, reliable=reliable)
    summary = summarize(evidence, "sandwich").extra
    assert summary["gap_certified"] == pytest.approx(0.3)
    assert summary["certified"] == pytest.approx(2 / 3)
    assert summary["rhat"] is None
    assert summary["log_px_upper_se"] == pytest.approx(0.5 / 3)
    assert "conditional: no mode was missed by all chains" in table(summarize(evidence, "sandwich"), "test")
    evidence.extra["certified"] = torch.zeros(3)
    assert summarize(evidence, "sandwich").extra["gap_certified"] is None


@pytest.mark.parametrize(
    "settings",
    [{"num_samples": 1}, {"num_chains": 3}, {"num_draws": 8}, {"guide_weight": 1.0}, {"max_modes": 9}],
)
def test_refuses_bad_settings(settings):
    with pytest.raises(BadInput, match=next(iter(settings))):
        Sandwich(**settings)


@pytest.mark.parametrize("gap", [0.01, 0.2])
def test_a_narrow_gap_outweighs_a_large_pareto_k(ppca, monkeypatch, gap):
    """A few large weights among many equal ones have a large k, but posterior draws show that nothing lacks."""
    x = ppca.evidence.sample((3,))
    ppca.set_exact_guide(widen=1.5)

    def poor(*args):
        evidence = accumulate(*args)
        return replace(evidence, pareto_k=torch.full_like(evidence.se, 2.0))

    monkeypatch.setattr(sandwich, "accumulate", poor)
    of_chain = torch.linspace(-0.3, 0.3, 16).double()

    def narrow(posterior, log_w):
        noise = of_chain.repeat(len(posterior) // 16).unsqueeze(-1)
        return (log_w.logsumexp(0) - math.log(len(log_w)) + gap + noise).expand(posterior.shape)

    monkeypatch.setattr(sandwich, "iw_eubo", narrow)
    evidence = SHORT(num_warmup=5, num_draws=16)(ppca.vae.model, ppca.vae.guide, x)
    of_chains = evidence.extra["log_px_upper_se"].square() - evidence.se.square()
    torch.testing.assert_close(of_chains, (of_chain.var() / 16).expand(3))
    assert (evidence.extra["certified"] == (gap < 0.05)).all()
    assert (evidence.unreliable == (gap > 0.05)).all()
