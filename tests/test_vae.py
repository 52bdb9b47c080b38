from copy import deepcopy
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import make_ppca
from pyro.infer import MCMC, NUTS, SVI, Predictive, Trace_ELBO
from pyro.optim import PyroOptim
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae import analysis
from pyro_vae.analysis import imputation
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal, FullCovariance, InverseAutoregressive
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.marginal import Importance, Refined
from pyro_vae.networks import MLP, Conv
from pyro_vae.objectives import TraceMeanField_ELBO
from pyro_vae.priors import StandardNormal
from pyro_vae.training.optim import JointOptim
from pyro_vae.vae import VAE


def train_guide(ppca, x, steps=1500):
    """Only the guide: the model stays the linear-Gaussian one, whose posterior is known."""
    ppca.vae.decoder.requires_grad_(False).eval()
    elbo = TraceMeanField_ELBO(num_particles=20)
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps)
    optim = JointOptim(partial(torch.optim.Adam, lr=0.02), schedule)

    def loss(model, guide, x):
        return elbo.differentiable_loss(model, guide, x) / len(x)

    svi = pyro.infer.SVI(ppca.vae.model, ppca.vae.guide, optim, loss=loss)
    with pyro.validation_enabled(False):
        for _ in range(steps):
            svi.step(x)
            optim.end_epoch(0.0)


@pytest.mark.slow
def test_full_covariance_guide_learns_the_exact_posterior_of_a_linear_model(ppca):
    x = ppca.evidence.sample((100,))
    train_guide(ppca, x)
    with torch.no_grad():
        q = ppca.vae.posterior(ppca.vae.encoder(x))
        kl = kl_divergence(MultivariateNormal(q.loc, scale_tril=q.scale_tril), ppca.posterior(x))
    assert kl.mean() < 0.01


@pytest.mark.slow
def test_diagonal_guide_reaches_its_own_best_and_no_further():
    ppca = make_ppca(Diagonal)
    x = ppca.evidence.sample((100,))
    precision = ppca.posterior(x).precision_matrix[0]
    # the best diagonal q has variances 1/Λ_ii: KL = ½ (Σ log Λ_ii − log det Λ)
    best = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    assert best > 0.1  # W is not orthogonal
    train_guide(ppca, x)
    with torch.no_grad():
        q = ppca.vae.posterior(ppca.vae.encoder(x)).base_dist
        kl = kl_divergence(MultivariateNormal(q.loc, torch.diag_embed(q.scale**2)), ppca.posterior(x)).mean()
    assert best - 1e-9 < kl < best + 0.05


def test_missing_values_are_refused_where_they_would_give_nan_and_lists_are_data(small_vae):
    for method in (small_vae.log_prob, small_vae.encode, small_vae.reconstruct):
        with pytest.raises(BadInput, match=r"x holds NaN, but the training data were complete: .*impute\(x\)"):
            method(np.full((2, 6), np.nan))
    assert small_vae.encode([[0.0] * 6, [1.0] * 6]).shape == (2, 2)
    assert small_vae.decode([[0.0, 1.0]]).shape == (1, 6)
    assert small_vae.sample(np.int64(3)).shape == (3, 6)


def test_log_prob_refuses_what_the_likelihood_cannot_give_and_warns_of_what_it_is_not_for(small_vae):
    with pytest.raises(BadInput, match="likelihood=bernoulli"):
        small_vae.log_prob(np.full((3, 6), -1.0))
    with pytest.warns(UserWarning, match="likelihood=bernoulli"):
        small_vae.log_prob(np.full((3, 6), 0.3))


def test_elbo_is_log_px_minus_the_posterior_divergence(ppca):
    """ELBO = log p(x) − KL(q ‖ p(z | x)), in closed form for a linear model, against mean log-weights."""
    x = ppca.evidence.sample((20,))
    with torch.no_grad():
        q = ppca.vae.posterior(ppca.vae.encoder(x))
        kl = kl_divergence(MultivariateNormal(q.loc, scale_tril=q.scale_tril), ppca.posterior(x))
        expected = ppca.evidence.log_prob(x) - kl
        elbos = torch.stack([Importance(1000)(ppca.vae.model, ppca.vae.guide, x).elbo for _ in range(20)])
    se = elbos.std(0) / 20**0.5
    assert ((elbos.mean(0) - expected).abs() < 5 * se).all()


@pytest.mark.parametrize("network", [MLP([16]), MLP([]), Conv([4, 8], hidden=16)])
@pytest.mark.parametrize("guide", [Diagonal, FullCovariance])
@pytest.mark.parametrize(
    "likelihood", [Bernoulli, *(partial(Gaussian, scale=s) for s in ("fixed", "learned", "per_pixel"))]
)
@pytest.mark.parametrize("latent_dim", [1, 3])
def test_every_combination_has_shapes_and_finite_gradients(network, guide, likelihood, latent_dim):
    vae = VAE.build([1, 7, 9], latent_dim, network, StandardNormal, likelihood, guide)
    x = torch.rand(5, 1, 7, 9).round()
    assert vae.encode(x).shape == (5, latent_dim)
    assert vae.decode(torch.randn(4, 2, latent_dim)).shape == (4, 2, 1, 7, 9)
    assert vae.reconstruct(x).shape == x.shape
    assert vae.sample(3).shape == vae.sample(3, mean=True).shape == (3, 1, 7, 9)
    assert vae.log_prob(x, num_samples=7, estimator="importance").shape == (5,)
    TraceMeanField_ELBO(num_particles=2).differentiable_loss(vae.model, vae.guide, x).backward()
    gradients = [p.grad for p in vae.parameters()]
    assert all(g is not None and g.isfinite().all() for g in gradients)


def test_users_methods_take_numpy_and_refuse_other_shapes(small_vae):
    assert small_vae.encode(np.zeros((3, 6))).shape == (3, 2)
    with pytest.raises(BadInput, match=r"\[3, 5\].*\[N, 6\]"):
        small_vae.encode(np.zeros((3, 5)))
    with pytest.raises(BadInput, match="empty"):
        small_vae.log_prob(np.zeros((0, 6)))
    with pytest.raises(BadInput, match=r"z has shape \[3, 5\].*2"):
        small_vae.decode(np.zeros((3, 5)))
    with pytest.raises(BadInput, match="n=0"):
        small_vae.sample(0)


def test_bytes_are_read_as_data_sets_read_them(small_vae):
    x = np.random.default_rng(0).integers(0, 256, (4, 6), dtype=np.uint8)
    for array in (x, torch.tensor(x)):
        torch.testing.assert_close(small_vae.encode(array), small_vae.encode(x / 255))
    torch.testing.assert_close(small_vae.encode(x > 99), small_vae.encode((x > 99).astype(float)))
    with pytest.raises(BadInput, match="x holds bytes of 0 and 1"):
        small_vae.encode((x > 99).astype(np.uint8))


def test_arrays_may_run_backwards_or_have_another_byte_order(small_vae):
    x = np.random.default_rng(0).random((4, 6)).round()
    torch.testing.assert_close(small_vae.encode(x[::-1]), small_vae.encode(x).flip(0))
    torch.testing.assert_close(small_vae.encode(x.astype(">f4")), small_vae.encode(x))
    draws = small_vae.impute(x[:, ::-1], np.ones(6, dtype=bool)[::-1], num_samples=1, num_steps=1)
    assert np.array_equal(draws[0], x[:, ::-1])


def test_seeded_noise_leaves_no_trace(small_vae):
    vae = VAE.build([6], 2, MLP([4]), StandardNormal, Bernoulli, partial(InverseAutoregressive, hidden=[8]))
    x, before = torch.zeros(3, 6), torch.get_rng_state()
    means = vae.encode(x)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert torch.equal(vae.encode(x), means)


USES = {
    "log_prob": lambda vae, x: vae.log_prob(x, num_samples=3, estimator="importance"),
    "an estimator": lambda vae, x: Refined(20)(vae.model, vae.guide, x),
    "gaps": lambda vae, x: analysis.gaps(vae.model, vae.guide, x, Importance(10), num_steps=2, num_samples=2),
    "surgery": lambda vae, x: analysis.surgery(vae.model, vae.guide, x),
    "impute": lambda vae, x: imputation.impute(vae.model, vae.guide, x, x == 0, num_steps=1),
}


@pytest.mark.parametrize("use", USES)
def test_what_is_asked_of_one_vae_does_not_keep_another_from_training(use):
    """Parameters are known to Pyro by name: those of the first would be trained in place of the second's."""
    one, other = (VAE.build([6], 2, MLP([8]), StandardNormal, Bernoulli, Diagonal) for _ in range(2))
    x = torch.rand(5, 6).round()
    USES[use](one, x)
    assert not list(pyro.get_param_store())
    before = deepcopy(list(other.parameters()))
    SVI(other.model, other.guide, PyroOptim(torch.optim.SGD, {"lr": 0.1}), Trace_ELBO()).step(x)
    assert all(not torch.equal(p, q) for p, q in zip(before, other.parameters(), strict=True))


def test_programs_find_their_trained_parameters():
    """What is in Pyro's store stays, and counts: an estimator's store is a copy."""

    def model(x):
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, scale))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(0.9 * x, 0.3**0.5))

    pyro.param("scale", torch.tensor(3.0), constraint=dist.constraints.positive)
    x = torch.tensor([0.3, 4.0])
    log_px = Refined(100)(model, guide, x).log_px
    torch.testing.assert_close(log_px, dist.Normal(0.0, 10**0.5).log_prob(x).double(), rtol=0, atol=1e-3)
    assert pyro.param("scale").item() == pytest.approx(3.0)


def test_log_prob_warns_of_estimates_that_cannot_be_relied_on(ppca, recwarn):
    """A guide far from the posterior, then the posterior itself: the second is exact, and says nothing."""
    x = ppca.evidence.sample((50,))
    ppca.set_exact_guide(widen=0.5, shift=5)
    with pytest.warns(UserWarning, match=r"\d+.\d % .* unreliable, .* set num_samples=1000, or use estimator=auto"):
        far = ppca.vae.log_prob(x, num_samples=100, estimator="importance")
    assert (far < ppca.evidence.log_prob(x) - 1).double().mean() > 0.5
    recwarn.clear()
    ppca.set_exact_guide(widen=1.2)
    assert (
        ppca.vae.log_prob(x, num_samples=1000, estimator="importance") - ppca.evidence.log_prob(x)
    ).abs().max() < 0.1
    assert not recwarn.list


def test_means_are_those_of_the_distributions(ppca):
    x = ppca.evidence.sample((4,))
    ppca.set_exact_guide()
    z = ppca.posterior(x).mean
    torch.testing.assert_close(ppca.vae.encode(x), z)
    torch.testing.assert_close(ppca.vae.reconstruct(x), z @ ppca.W.T + ppca.b)


def test_samples_have_the_moments_of_the_model(ppca):
    n = 20_000
    x = ppca.vae.sample(n)
    variance = ppca.evidence.variance
    assert ((x.mean(0) - ppca.b).abs() < 4.5 * (variance / n).sqrt()).all()
    # var of a Gaussian's sample variance: 2σ⁴/n
    assert ((x.var(0) - variance).abs() < 4.5 * variance * (2 / n) ** 0.5).all()


def test_the_programs_serve_pyros_own_inference(ppca):
    """NUTS on vae.model finds the exact posterior; Predictive takes both programs."""
    x = ppca.evidence.sample((1,))
    mcmc = MCMC(NUTS(ppca.vae.model), num_samples=100, warmup_steps=60, disable_progbar=True)
    mcmc.run(x)
    z, exact = mcmc.get_samples()["z"][:, 0], ppca.posterior(x)
    n_eff = mcmc.diagnostics()["z"]["n_eff"].clamp(max=100)
    assert ((z.mean(0) - exact.mean[0]).abs() < 4.5 * exact.stddev[0] / n_eff[0].sqrt()).all()
    draws = Predictive(ppca.vae.guide, num_samples=7)(x)["z"]
    assert draws.shape == (7, 1, 2)


def test_build_refuses_latent_dim_zero():
    with pytest.raises(BadInput, match="latent_dim=0"):
        VAE.build([6], 0, MLP([16]), StandardNormal, Bernoulli, Diagonal)


def test_masked_arrays_and_masks_of_lists(small_vae):
    vae = small_vae.float()
    x = np.ma.masked_array(np.ones((3, 6), np.float32), mask=np.eye(3, 6, dtype=bool))
    with pytest.raises(BadInput, match="NaN"):
        vae.encode(x)
    filled = vae.impute(x, num_samples=50)
    assert filled.shape == (50, 3, 6)
    observed = torch.from_numpy(~x.mask)
    assert (filled[:, observed] == 1).all()
    assert filled[:, ~observed].std() > 0
    assert (vae.impute(x.data, mask=(~x.mask).tolist(), num_samples=3)[:, observed] == 1).all()


def test_latents_are_any_real_numbers(small_vae):
    expected = small_vae.decode([[0.0, 1.0]])
    for z in ([[0, 1]], [[False, True]], np.uint8([[0, 1]]), torch.tensor([[0, 1]]), np.array([[0, 1]], ">i2")):
        assert torch.equal(small_vae.decode(z), expected)
    for z, message in [
        (torch.zeros(2).to(torch.complex64), "z has dtype torch.complex64: give real numbers"),
        (["a", "b"], "z has dtype <U1"),
        ([[0.0, 1.0], [2.0]], "z is a ragged list"),
        (torch.eye(2).to_sparse(), "z is a sparse tensor"),
    ]:
        with pytest.raises(BadInput, match=message):
            small_vae.decode(z)


def test_latents_that_are_no_numbers_are_refused(small_vae):
    with pytest.raises(BadInput, match="z holds values that are NaN or Inf"):
        small_vae.decode([0.0, float("nan")])


@pytest.fixture
def few_rows(monkeypatch):
    """At most 16 rows of 12 numbers of a float32 at a time, and the batches that networks have seen."""
    monkeypatch.setattr("pyro_vae.programs.chunks.LARGEST", 16 * 12 * 4)
    seen = []
    note = torch.nn.modules.module.register_module_forward_hook
    handle = note(lambda module, args, out: seen.append(len(out)) if isinstance(out, Tensor) else None)
    yield seen
    handle.remove()


@pytest.mark.parametrize("conditioning", ["none", "concat"])
def test_many_rows_are_worked_on_some_at_a_time(few_rows, conditioning, monkeypatch):
    classes = None if conditioning == "none" else 3
    vae = VAE.build([12], 2, MLP([8]), StandardNormal, Bernoulli, Diagonal, conditioning, classes).eval()
    x, z = torch.rand(50, 12).round(), torch.randn(7, 10, 2)
    y, y_z = (None, None) if classes is None else (torch.arange(50) % 3, torch.arange(10) % 3)
    uses = {
        "encode": lambda: vae.encode(x, y=y),
        "reconstruct": lambda: vae.reconstruct(x, y=y),
        "decode": lambda: vae.decode(z, y=y_z),
        "sample_z": lambda: vae.sample_z(50, y=y),
        "means": lambda: vae.sample(50, y=y, mean=True),
        "sample": lambda: vae.sample(50, y=y),
    }
    results = {}
    for name, use in uses.items():
        few_rows.clear()
        torch.manual_seed(0)
        results[name] = use()
        assert max(few_rows, default=16) <= 16
    assert few_rows  # the decoder's, in the last of them
    monkeypatch.setattr("pyro_vae.programs.chunks.LARGEST", 2**28)
    for name, use in uses.items():
        torch.manual_seed(0)
        at_once = use()
        rows = 16 if name == "sample" else len(at_once)  # other noise from the second chunk on
        torch.testing.assert_close(results[name][:rows], at_once[:rows])
    assert vae.decode(torch.zeros(0, 2), y=None if classes is None else 1).shape == (0, 12)
    assert vae.decode(torch.zeros(2), y=None if classes is None else 1).shape == (12,)


def test_measuring_rows_uses_up_no_noise_and_leaves_batch_norm_alone(few_rows):
    vae = VAE.build([12], 2, WithBatchNorm([16]), StandardNormal, Bernoulli, Diagonal)
    before = torch.get_rng_state()
    vae.encode(torch.rand(3, 12, generator=torch.Generator()).round())
    assert torch.equal(torch.get_rng_state(), before)
    assert vae.encoder[-1].num_batches_tracked == 1
    assert vae.training


class WithBatchNorm(MLP):
    """An MLP whose encoder has statistics of its own."""

    def encoder(self, data_shape, context_dim=0):
        return torch.nn.Sequential(*super().encoder(data_shape, context_dim), torch.nn.BatchNorm1d(16))


def test_networks_with_batch_norm_are_built_as_they_came():
    vae = VAE.build([6], 2, WithBatchNorm([16]), StandardNormal, Bernoulli, Diagonal)
    assert all(part.training for part in vae.modules())
    assert vae.encoder[-1].num_batches_tracked == 0
