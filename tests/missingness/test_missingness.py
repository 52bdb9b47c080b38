"""Entries that are not missing at random, against numerical integration of a linear-Gaussian model."""

import json
import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import make_ppca, one_error_line
from pyro.infer import SVI
from pyro.optim import Adam

import pyro_vae
from pyro_vae.analysis.certificate import certificate
from pyro_vae.analysis.surgery import surgery
from pyro_vae.compilation.elbos import CompiledTrace_ELBO
from pyro_vae.data import from_array
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal, FullCovariance, SemiAmortized
from pyro_vae.likelihoods import Bernoulli, Beta, ContinuousBernoulli, Gaussian, Poisson, StudentT, Table
from pyro_vae.marginal import Auto
from pyro_vae.missingness import Linear, Missingness, SelfMasking
from pyro_vae.networks import MLP
from pyro_vae.objectives import (
    IWAE,
    DReG,
    FreeBits,
    ReweightedWakeSleep,
    ScoreFunction,
    StickingTheLanding,
    Trace_ELBO,
    TraceMeanField_ELBO,
    VariationalEM,
)
from pyro_vae.priors import StandardNormal
from pyro_vae.runs.estimation import bits_per_dim
from pyro_vae.runs.kinds import kind_of
from pyro_vae.vae import VAE, SemiSupervisedVAE


class Truth:
    """Probabilistic PCA of three entries, each masked by its own value, and its log p(x_obs, mask) on a grid."""

    def __init__(self):
        ppca = make_ppca(D=3, d=1)
        self.p_x, likelihood = ppca.evidence, partial(Gaussian, scale="fixed", init_scale=ppca.sigma)
        build = partial(VAE.build, [3], 1, MLP([8]), StandardNormal, likelihood, FullCovariance, missing=True)
        self.vae, self.ignorant = build(missingness=SelfMasking).double(), build().double()
        self.vae.decoder = self.ignorant.decoder = ppca.vae.decoder
        self.mechanism = self.vae.missingness
        with torch.no_grad():
            self.mechanism.raw_slope.copy_(torch.tensor([2.0, -1.5, 0.5]))
            self.mechanism.intercept.copy_(torch.tensor([0.3, -0.5, 1.0]))

    def rows(self, holes):
        return torch.where(torch.tensor(holes), math.nan, self.p_x.sample((len(holes),)))

    def sample(self, n):
        """Draw x with missing entries."""
        x = self.p_x.sample((n,))
        with torch.no_grad():
            return torch.where(self.mechanism(x).sample() == 1, x, math.nan)

    @torch.no_grad()
    def of(self, row):
        """log p(x_obs, mask) and E[x_mis | x_obs, mask] of a row with at most two missing entries."""
        missing = row.isnan()
        axis, count = torch.linspace(-8, 8, 321), int(missing.sum())
        x = row.expand(len(axis) ** count, 3).clone()
        if count:
            x[:, missing] = torch.cartesian_prod(*[axis] * count).reshape(-1, count)
        log_p = self.p_x.log_prob(x) + self.mechanism(x).log_prob((~missing).double())
        step = count * (axis[1] - axis[0]).log()
        return log_p.logsumexp(0) + step, (log_p.softmax(0)[:, None] * x).sum(0)


HOLES = [[True, False, False], [False, True, False], [True, True, False], [False] * 3]


@pytest.fixture
def truth(double):
    return Truth()


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("importance", {"num_samples": 20_000}),
        ("prior", {"num_samples": 20_000}),
        ("refined", {"num_samples": 1000}),
        ("auto", {}),
        pytest.param("ais", {"num_samples": 10, "num_temperatures": 30}, marks=pytest.mark.slow),
        pytest.param("sandwich", {"num_samples": 1000, "num_chains": 4, "num_draws": 50}, marks=pytest.mark.slow),
    ],
)
def test_estimators_agree_with_numerical_integration(truth, name, settings):
    x = truth.rows(HOLES)
    exact = torch.stack([truth.of(row)[0] for row in x])
    evidence = truth.vae.evidence(x, estimator=name, **settings)
    assert ((evidence.log_px - exact).abs() < 4.5 * evidence.se + 0.005).all()
    ignorant = truth.ignorant.log_prob(x, 20_000, estimator="importance")
    assert ((ignorant - exact).abs() > 0.3).all()  # log p(x_obs) is another number


def test_the_iwae_bound_is_below_and_close(truth):
    x = truth.rows(HOLES)
    exact = torch.stack([truth.of(row)[0] for row in x]).sum()
    bounds = [-IWAE(K).loss(truth.vae.model, truth.vae.guide, x.repeat(200, 1)) / 200 for K in (1, 10, 200)]
    assert bounds[0] < bounds[1] < bounds[2] < exact + 0.02
    assert bounds[2] > exact - 0.1


def test_imputation_has_the_mean_given_the_mask(truth):
    x = truth.rows(HOLES)
    means = torch.stack([truth.of(row)[1] for row in x])
    by = {
        "importance": {"num_proposals": 20_000, "num_samples": 2000},
        "posterior": {"num_samples": 500},
        "gibbs": {"num_samples": 500},
    }
    for method, settings in by.items():
        draws = truth.vae.impute(x, method=method, **settings)
        se = draws.std(0) / math.sqrt(len(draws))
        assert ((draws.mean(0) - means).abs() < 5 * se + 0.01).all(), method
    single = truth.vae.impute(x, method="importance", num_proposals=20_000, mean=True)[0]
    assert (single - means).abs().max() < 0.05
    at_random = truth.ignorant.impute(x, method="importance", num_proposals=20_000, mean=True)[0]
    assert (at_random - means)[0, 0] < -0.2  # high values of the first entry are missing more often


def score(vae, x):
    """Mean gradient of the IWAE's bound for the decoder's bias, with its standard error over parts of x."""
    bias = vae.decoder[0].bias
    parts = [torch.autograd.grad(-IWAE(100).differentiable_loss(vae.model, vae.guide, part), bias)[0] for part in x]
    g = torch.stack(parts) / x.shape[1]
    return g.mean(0), g.std(0) / math.sqrt(len(g))


def test_the_score_at_the_truth_is_zero_unless_the_mask_is_ignored(truth):
    """The bias learned by MIWAE, without training: the truth is a maximum for not-MIWAE only."""
    x = truth.sample(4000).reshape(40, 100, 3)
    g, se = score(truth.vae, x)
    assert (g.abs() < 3.5 * se).all()
    g, se = score(truth.ignorant, x)
    assert g[0] < -8 * se[0]  # missing high values pull the mean of the first entry down
    assert g[1] > 8 * se[1]


@pytest.mark.slow
def test_training_recovers_what_is_missing():
    complete = torch.randn(600, 1) + 0.5 * torch.randn(600, 3)
    missing = torch.rand(600) < torch.sigmoid(3 * complete[:, 0])
    x = complete.clone()
    x[missing, 0] = math.nan
    bias = []
    for missingness in (None, SelfMasking):
        build = partial(VAE.build, [3], 1, MLP([]), StandardNormal, Gaussian, FullCovariance, missing=True)
        vae = build(missingness=missingness)
        vae.initialize(x)
        pyro.clear_param_store()
        svi = SVI(vae.model, vae.guide, Adam({"lr": 0.02}), IWAE(10))
        with pyro.validation_enabled(False):
            for _ in range(500):
                svi.step(x[torch.randperm(600)[:150]])
        error = (vae.impute(x, method="importance", num_proposals=300, mean=True)[0] - complete)[missing, 0]
        bias.append(error.mean().item())
    assert bias[0] < -0.7  # the standard error is 0.033
    assert abs(bias[1]) < 0.25  # of which the estimates from 600 rows are a part
    assert vae.missingness.slope[0] > 1.2


@pytest.mark.parametrize("missingness", [SelfMasking, partial(SelfMasking, missing="low"), Linear])
def test_gradients_are_those_of_plain_torch(double, missingness):
    torch.manual_seed(0)
    build = partial(VAE.build, [3], 2, MLP([4]), StandardNormal, Gaussian, Diagonal, missing=True)
    vae = build(missingness=missingness).double()
    x = torch.randn(6, 3)
    x[torch.rand(6, 3) < 0.4] = math.nan
    vae.initialize(x)
    for p in vae.missingness.parameters():
        torch.nn.init.normal_(p)
    objective = IWAE(5)
    torch.manual_seed(1)
    objective.differentiable_loss(vae.model, vae.guide, x).backward()
    ours = {name: p.grad for name, p in vae.named_parameters()}
    for p in vae.parameters():
        p.grad = None

    torch.manual_seed(1)
    observed = (~x.isnan()).double()
    q = vae.q_z(x)
    z = q.rsample((5,))
    p_x = dist.Normal(vae.p_x(z).base_dist.loc, vae.likelihood.scale)
    full = torch.where(observed == 1, x, p_x.rsample())
    u = (full - vae.missingness.location) / vae.missingness.unit
    slope = u @ vae.missingness.weight.T if missingness is Linear else u * vae.missingness.slope
    log_odds = vae.missingness.intercept - slope
    log_mask = -torch.nn.functional.binary_cross_entropy_with_logits(
        log_odds, observed.expand(5, 6, 3), reduction="none"
    )
    log_x = (observed * p_x.log_prob(x.nan_to_num(0.0))).sum(-1)
    log_w = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + log_x + log_mask.sum(-1) - q.log_prob(z)
    (-(log_w.logsumexp(0) - math.log(5)).sum()).backward()
    for name, p in vae.named_parameters():
        assert torch.allclose(ours[name], p.grad, atol=1e-8), name


@pytest.mark.parametrize("objective", [DReG(20), StickingTheLanding(20), ScoreFunction(50)])
def test_gradient_estimators_have_the_same_mean(truth, objective):
    """Also for parameters that model and guide share, the decoder's."""
    x = truth.rows(HOLES)[:3].repeat(300, 1)
    reference = IWAE(20) if isinstance(objective, DReG) else Trace_ELBO(20)
    params = [truth.vae.decoder[0].weight, truth.mechanism.raw_slope, truth.vae.posterior.loc_log_scale.bias]

    def gradients(of):
        parts = []
        for _ in range(12):
            loss = of.differentiable_loss(truth.vae.model, truth.vae.guide, x) / len(x)
            parts.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, params)]))
        return torch.stack(parts).mean(0), torch.stack(parts).std(0) / math.sqrt(12)

    (one, se), (other, other_se) = gradients(objective), gradients(reference)
    assert ((one - other).abs() < 5 * (se.square() + other_se.square()).sqrt() + 1e-6).all()


@pytest.mark.parametrize("missingness", [SelfMasking, partial(SelfMasking, missing="high"), Linear])
@pytest.mark.parametrize(
    ("likelihood", "objective", "draw"),
    [
        (Gaussian, TraceMeanField_ELBO, lambda: 1e3 + 10 * torch.randn(30, 4)),
        (StudentT, partial(IWAE, 5), lambda: torch.randn(30, 4)),
        (Beta, FreeBits, lambda: 0.01 + 0.9 * torch.rand(30, 4)),
        (ContinuousBernoulli, VariationalEM, lambda: torch.rand(30, 4)),
        (Bernoulli, partial(ScoreFunction, 5), lambda: torch.rand(30, 4).round()),
        (Poisson, partial(ReweightedWakeSleep, 5), lambda: 9 * torch.rand(30, 4).round()),
    ],
)
def test_families_train(likelihood, objective, draw, missingness):
    x = draw()
    x[torch.rand(x.shape) < 0.3] = math.nan
    vae = VAE.build([4], 2, MLP([8]), StandardNormal, likelihood, Diagonal, missing=True, missingness=missingness)
    vae.initialize(x)
    assert torch.allclose(vae.missingness.intercept.sigmoid(), (~x.isnan()).float().mean(0), atol=0.05)
    bound = objective()
    bound.check(vae.model, vae.guide, x)
    before = [p.detach().clone() for p in vae.missingness.parameters()]
    svi = SVI(vae.model, vae.guide, Adam({"lr": 1e-2}), bound)
    for step in range(3):
        bound.at_step(step, 0.0)
        assert math.isfinite(svi.step(x))
    assert all(p.isfinite().all() for p in vae.parameters())
    assert not any(torch.equal(p, old) for p, old in zip(vae.missingness.parameters(), before, strict=True))
    draws = vae.impute(x, method="importance", num_samples=2, num_proposals=500)
    assert torch.equal(draws[0][~x.isnan()], x[~x.isnan()])
    assert not draws.isnan().any()
    assert vae.log_prob(x[:5], 200, estimator="importance").isfinite().all()


def test_layers_images_and_guides_that_evaluate_the_model():
    x = torch.randn(5, 2, 3)
    x[:, 0, 1] = math.nan
    build = partial(VAE.build, [2, 3], prior=StandardNormal, likelihood=Gaussian, missing=True, missingness=Linear)
    for latent_dim, guide in (([3, 2], Diagonal), (2, SemiAmortized)):
        vae = build(latent_dim, MLP([8], upper_hidden=[4]), guide=guide)
        assert vae.log_prob(x, 100, estimator="importance").shape == (5,)
        assert vae.impute(x, method="importance", num_proposals=200).shape == (10, 5, 2, 3)
        assert vae.sample(4).shape == (4, 2, 3)


def test_compiled_equals_eager(truth, as_traced):
    x = truth.rows(HOLES)
    losses = []
    for objective in (Trace_ELBO, CompiledTrace_ELBO):
        torch.manual_seed(0)
        elbo = objective()
        losses.append([elbo.loss(truth.vae.model, truth.vae.guide, x.roll(i, 0)) for i in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


class Shapeless(Missingness):
    def logits(self, u):
        return self.intercept[:2] - u[..., :2]


def test_what_does_not_apply_is_refused(truth):
    build = partial(VAE.build, [3], 2, MLP([4]), StandardNormal)
    with pytest.raises(BadInput, match="missingness=SelfMasking needs data with missing entries"):
        build(Gaussian, Diagonal, missingness=SelfMasking)
    with pytest.raises(BadInput, match="missing=middle .*high"):
        build(Gaussian, Diagonal, missing=True, missingness=partial(SelfMasking, missing="middle"))
    with pytest.raises(BadInput, match="missingness=Shapeless: forward returns batch_shape"):
        build(Gaussian, Diagonal, missing=True, missingness=Shapeless)
    columns = [{"name": name, "kind": "real"} for name in "abc"]
    with pytest.raises(BadInput, match="needs draws of x with a gradient, which likelihood=Table does not have"):
        build(partial(Table, columns=columns), Diagonal, missing=True, missingness=SelfMasking)
    with pytest.raises(BadInput, match="conditioning=semi_supervised has no missingness model"):
        SemiSupervisedVAE.build(
            [3], 2, MLP([4]), StandardNormal, Gaussian, Diagonal, num_classes=2, missing=True, missingness=SelfMasking
        )
    vae, x = truth.vae, truth.rows(HOLES)
    with pytest.raises(BadInput, match="bdmc simulates models that observe one site; this one observes x, mask"):
        certificate(vae.model, vae.guide, x, Auto())
    with pytest.raises(BadInput, match="analysis=surgery is about z alone"):
        surgery(vae.model, vae.guide, x)
    with pytest.raises(BadInput, match="needs a linear-Gaussian model"):
        vae.log_prob(x, estimator="exact")
    with pytest.raises(BadInput, match="mean=True with method=posterior.*use method=importance"):
        vae.impute(x, mean=True)
    with pytest.raises(BadInput, match="insomnia=0.5 dreams of x alone, but this model observes x, mask"):
        ReweightedWakeSleep(5, insomnia=0.5).check(vae.model, vae.guide, x)
    bernoulli = build(Bernoulli, Diagonal, missing=True, missingness=SelfMasking).double()
    with pytest.raises(BadInput, match=r"needs a reparameterized guide, q\(x_mis \| x\)"):
        IWAE(5).check(bernoulli.model, bernoulli.guide, x.gt(0).to(x))


FIT = {"likelihood": "gaussian", "latent_dim": 1, "network": ("mlp", {"hidden": [4]}), "max_epochs": 1}


def test_fit_saves_and_loads(tmp_path):
    x = torch.randn(60, 3)
    x[torch.rand(60, 3) < 0.3] = math.nan
    fit = partial(pyro_vae.fit, x, **FIT, verbose=False)
    vae = fit(missingness=("self_masking", {"missing": "high"}), run_dir=tmp_path / "run")
    again = pyro_vae.load(tmp_path / "run")
    assert again.missingness.missing == "high"
    assert torch.equal(again.missingness.intercept, vae.missingness.intercept)
    assert fit(missingness="none").missingness is None
    assert isinstance(fit(missingness=Linear).missingness, Linear)
    with pytest.raises(BadInput, match="missingness.*unknown"):
        fit(missingness="unknown")
    with pytest.raises(BadInput, match="missingness=SelfMasking needs data with missing entries"):
        pyro_vae.fit(torch.randn(60, 3), missingness="self_masking", **FIT, verbose=False)


def test_the_command_reports_baselines_of_the_mask_and_refuses_to_compare(command, tmp_path):
    x = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)
    x[np.random.default_rng(1).random(x.shape) < 0.3] = math.nan
    np.save(tmp_path / "x.npy", x)
    arguments = [
        "data=array", "data.path=x.npy", "data.missing=true", "likelihood=gaussian", "latent_dim=1",
        "network.hidden=[4]", "trainer.max_epochs=1", "estimator=importance", "estimator.num_samples=50", "plots=false",
    ]  # fmt: skip
    results = {}
    for name in ("none", "self_masking"):
        done = command("train", *arguments, f"missingness={name}", f"hydra.run.dir={name}")
        assert done.code == 0, done.err
        results[name] = json.loads((tmp_path / name / "results.json").read_text())["test"]
        evaluate = ["estimator=importance", "estimator.num_samples=20", "plots=false"]
        assert command("evaluate", f"run={name}", *evaluate).code == 0
    of_mask = results["self_masking"]["baseline"] - results["none"]["baseline"]
    share = np.isnan(x).mean()
    assert of_mask == pytest.approx(3 * (share * math.log(share) + (1 - share) * math.log(1 - share)), abs=0.5)
    assert results["self_masking"]["baseline_gaussian"] - results["none"]["baseline_gaussian"] == pytest.approx(of_mask)
    one_error_line(command("compare", "run=[none,self_masking]"), "log p(x_obs, mask)", "both have a missingness model")
    assert command("train", "resume=self_masking", "trainer.max_epochs=2").code == 0


def test_only_without_a_mechanism_rows_without_entries_are_called_useless(caplog):
    x = torch.randn(60, 2, generator=torch.Generator().manual_seed(0))
    x[x > 0.7] = math.nan
    x[:3] = math.nan
    options = {"likelihood": "gaussian", "latent_dim": 1, "network": ("mlp", {"hidden": [8]}), "max_epochs": 1}
    for missingness, warned in ((None, True), ("self_masking", False)):
        caplog.clear()
        pyro_vae.fit(x, missingness=missingness, verbose=False, **options)
        assert ("have no observed entry" in caplog.text) == warned


def test_the_evidence_of_a_mask_is_of_another_kind():
    """It counts neither as bits per dimension nor beside that of the observed entries alone."""
    x = torch.bernoulli(torch.full((60, 4), 0.4)).where(torch.rand(60, 4) > 0.2, torch.nan)
    kinds = []
    for missingness in (None, SelfMasking):
        vae = VAE.build([4], 2, MLP([4]), StandardNormal, Bernoulli, Diagonal, missing=True, missingness=missingness)
        bits = bits_per_dim(-2.0, vae, from_array(x), x)
        assert (bits is None) == (missingness is not None)
        kinds.append(kind_of(vae))
    assert [name for name, value in kinds[0].items() if value != kinds[1][name]] == [
        "log p(x_obs, mask) and log p(x_obs)"
    ]


def test_missingness_starts_from_the_moments_of_what_is_observed():
    x = 1000 + torch.tensor([1.0, 20.0, 0.1]) * torch.randn(200, 3)
    x[torch.rand(200, 3) < 0.3] = torch.nan
    mechanism = SelfMasking([3])
    mechanism.initialize_from(x)
    seen = x.double().numpy()
    np.testing.assert_allclose(mechanism.location, np.nanmean(seen, 0), rtol=1e-5)
    np.testing.assert_allclose(mechanism.unit, np.nanstd(seen, 0), rtol=1e-3)
    share = ((~x.isnan()).sum(0) + 1) / 202
    torch.testing.assert_close(mechanism.intercept.detach(), share.logit())
