"""Values and gradients of every estimator, at the same draws, against the papers' formulas in plain torch."""

import math

import pytest
import torch
from tiny import Tiny, agree, detached, log_normal, mean_and_se

from pyro_vae.objectives import (
    IWAE,
    BetaVAE,
    DReG,
    FreeBits,
    KLAnnealing,
    Renyi,
    ReweightedWakeSleep,
    ScoreFunction,
    StickingTheLanding,
    Trace_ELBO,
    TraceMeanField_ELBO,
)

K = 4


def densities(tiny, x, z):
    return tiny.log_p(x, z), tiny.log_q(x, z)


def by_autograd(bound):
    """The bound, and its gradient by autograd through the draws."""

    def formula(tiny, x, z):
        log_p, log_q = densities(tiny, x, z)
        loss = -bound(log_p - log_q).sum()
        return loss, tiny.gradient(loss)

    return formula


def elbo(log_w):
    return log_w.mean(0)


def iwae(log_w):
    return log_w.exp().mean(0).log()


def path_gradients(tiny, x, z, a, c):
    """−Σ a ∇_θ log p and −Σ c (∂ log w / ∂z) ∇_φ z: the latter with the parameters within log w held fixed."""
    theta = tiny.gradient(-(a * tiny.log_p(x, detached(z))).sum(), "p")
    log_w = tiny.log_p(x, z) - tiny.log_q(x, z, tiny.frozen_q())
    return torch.cat([theta, tiny.gradient(-(c * log_w).sum(), "q")])


def sticking_the_landing(tiny, x, z):
    log_p, log_q = densities(tiny, x, z)
    mean = torch.full_like(log_p, 1 / K).detach()
    return -elbo(log_p - log_q).sum(), path_gradients(tiny, x, z, mean, mean)


def dreg(tiny, x, z):
    log_p, log_q = densities(tiny, x, z)
    w = (log_p - log_q).exp().detach()
    w = w / w.sum(0)
    return -iwae(log_p - log_q).sum(), path_gradients(tiny, x, z, w, w**2)


def wake(tiny, x, z):
    log_p, log_q = densities(tiny, x, detached(z))
    w = (log_p - log_q).exp().detach()
    w = w / w.sum(0)
    theta, phi = tiny.gradient(-(w * log_p).sum(), "p"), tiny.gradient(-(w * log_q).sum(), "q")
    return -iwae(log_p - log_q).sum(), torch.cat([theta, phi])


def score_function(tiny, x, z):
    log_p, log_q = densities(tiny, x, detached(z))
    log_w, phi = (log_p - log_q).detach(), 0.0
    for k in range(K):
        others = torch.stack([log_w[j] for j in range(K) if j != k]).mean(0)
        phi = phi - ((log_w[k] - others) * log_q[k]).sum() / K
    theta = tiny.gradient(-log_p.mean(0).sum(), "p")
    return -elbo(log_p - log_q).sum(), torch.cat([theta, tiny.gradient(phi, "q")])


def kl(tiny, x, z):
    """KL of each layer, summed over the batch: in closed form for one, at the draws for two."""
    if tiny.layers == 1:
        mean, log_scale = x @ tiny.q["C"].T, tiny.q["c"]
        return [0.5 * (mean**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()]
    low = log_normal(z[0], x @ tiny.q["C"].T, tiny.q["c"]) - log_normal(z[0], z[1] @ tiny.p["A"].T, tiny.p["a"])
    zero = x.new_zeros(2)
    high = log_normal(z[1], z[0] @ tiny.q["D"].T, tiny.q["d"]) - log_normal(z[1], zero, zero)
    return [low.mean(0).sum(), high.mean(0).sum()]


def weighted(loss_of_kl):
    """−E_q[log p(x | z)] + a function of the layers' KLs."""

    def formula(tiny, x, z):
        loss = -tiny.log_likelihood(x, z).mean(0).sum() + loss_of_kl(kl(tiny, x, z), len(x))
        return loss, tiny.gradient(loss)

    return formula


def annealing(epoch):
    objective = KLAnnealing(start=0.2, num_epochs=10, num_particles=K)
    objective.at_step(0, epoch)
    return objective


def free(nats):
    return weighted(lambda kls, N: sum(torch.maximum(layer, torch.tensor(nats * N)) for layer in kls))


FORMULAS = [
    (Trace_ELBO(K), by_autograd(elbo)),
    (IWAE(K), by_autograd(iwae)),
    (Renyi(0.3, K), by_autograd(lambda log_w: (0.7 * log_w).exp().mean(0).log() / 0.7)),
    (Renyi(-1.0, K), by_autograd(lambda log_w: (2 * log_w).exp().mean(0).log() / 2)),
    (Renyi(3.0, K), by_autograd(lambda log_w: (-2 * log_w).exp().mean(0).log() / -2)),
    (StickingTheLanding(K), sticking_the_landing),
    (DReG(K), dreg),
    (ReweightedWakeSleep(K), wake),
    (ScoreFunction(K), score_function),
    (TraceMeanField_ELBO(K), weighted(lambda kls, N: sum(kls))),
    (BetaVAE(2.5, K), weighted(lambda kls, N: 2.5 * sum(kls))),
    (BetaVAE(0.0, K), weighted(lambda kls, N: sum(kls) * 0)),
    (annealing(5.0), weighted(lambda kls, N: 0.6 * sum(kls))),
    *((FreeBits(nats, K), free(nats)) for nats in (0.01, 1.5, 50.0)),  # held nowhere, in one of two layers, everywhere
]


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(("objective", "formula"), FORMULAS, ids=lambda value: getattr(value, "name", ""))
def test_value_gradient_and_record_are_those_of_plain_torch(objective, formula, layers):
    tiny, x = Tiny(layers), torch.randn(5, 3).double()
    loss, elbo, log_likelihood_told = objective.bound(tiny.model, tiny.guide, x)
    gradient, z = tiny.gradient(loss), tiny.draws[0]
    value, expected = formula(tiny, x, z)
    torch.testing.assert_close(loss, value)
    torch.testing.assert_close(gradient, expected)
    log_likelihood = tiny.log_likelihood(x, z).detach().mean(0).sum()
    kl = (tiny.log_q(x, z) - tiny.log_p(x, z)).detach().mean(0).sum() + log_likelihood
    torch.testing.assert_close(log_likelihood_told, log_likelihood)
    torch.testing.assert_close(elbo, log_likelihood - kl)


@pytest.mark.parametrize("objective", [objective for objective, _ in FORMULAS], ids=lambda objective: objective.name)
def test_loss_and_grads_are_those_of_the_differentiable_loss(objective):
    tiny, x = Tiny(2), torch.randn(5, 3).double()
    torch.manual_seed(1)
    loss = objective.differentiable_loss(tiny.model, tiny.guide, x)
    gradient = tiny.gradient(loss)
    torch.manual_seed(1)
    assert objective.loss_and_grads(tiny.model, tiny.guide, x) == pytest.approx(loss.item())
    torch.testing.assert_close(
        torch.cat([p.grad.flatten() for name in "pq" for p in getattr(tiny, name).values()]), gradient
    )
    torch.manual_seed(1)
    assert objective.loss(tiny.model, tiny.guide, x) == pytest.approx(loss.item())


# In expectation ---------------------------------------------------------------------------------------

R, COPIES = 50, 100


def gradients(tiny, objective, x):
    """R draws `[R, P]` of the gradient, each the mean over copies of x."""
    many = x.repeat(COPIES, 1)
    return torch.stack([tiny.sample(objective, many) for _ in range(R)]) / COPIES


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize(
    ("estimator", "reference"),
    [
        (StickingTheLanding(2), Trace_ELBO(2)),
        (DReG(3), IWAE(3)),
        (ScoreFunction(1), Trace_ELBO(1)),
        (ScoreFunction(4), Trace_ELBO(4)),
        (TraceMeanField_ELBO(2), Trace_ELBO(2)),
    ],
    ids=lambda objective: objective.name,
)
def test_estimators_of_the_same_gradient_agree_in_expectation(estimator, reference, layers):
    tiny, x = Tiny(layers), torch.randn(2, 3).double()
    assert agree(gradients(tiny, estimator, x), gradients(tiny, reference, x))


@pytest.mark.parametrize("objective", [Trace_ELBO(2), StickingTheLanding(2), ScoreFunction(2), TraceMeanField_ELBO(2)],
                         ids=lambda objective: objective.name)  # fmt: skip
def test_elbo_gradients_are_unbiased_for_the_exact_one(objective):
    """ELBO = log p(x) − KL(q ‖ p(z | x)), both in closed form."""
    tiny, x = Tiny(1), torch.randn(2, 3).double()
    B, noise = tiny.p["B"], (2 * tiny.p["b"]).exp()
    precision = torch.eye(2).double() + B.T @ (B / noise[:, None])
    mean = (x / noise) @ B @ precision.inverse()
    posterior = torch.distributions.MultivariateNormal(mean, precision_matrix=precision)
    q = torch.distributions.MultivariateNormal(x @ tiny.q["C"].T, torch.diag_embed((2 * tiny.q["c"]).exp()))
    evidence = torch.distributions.MultivariateNormal(torch.zeros(3).double(), B @ B.T + noise.diag())
    exact = evidence.log_prob(x) - torch.distributions.kl_divergence(q, posterior)
    mean, se = mean_and_se(gradients(tiny, objective, x))
    assert ((mean - tiny.gradient(-exact.sum())).abs() < 4.5 * se).all()


def variance(tiny, objective, x):
    draws = torch.stack([tiny.sample(objective, x) for _ in range(60)])
    return draws[:, -8:].var(0).sum()  # of φ


def test_variance_of_the_score_function_exceeds_the_reparameterized_ones_and_falls_by_the_baseline():
    tiny, x = Tiny(1, scale=0.3), torch.randn(20, 3).double()
    with_baseline = 10 * variance(tiny, ScoreFunction(10), x)  # a particle
    assert with_baseline > variance(tiny, Trace_ELBO(1), x)
    assert with_baseline < variance(tiny, ScoreFunction(1), x) / 2


def test_no_noise_is_left_of_sticking_the_landing_where_the_guide_is_the_posterior(ppca):
    """Unlike the ELBO's own gradient (Roeder et al. 2017, §3)."""
    ppca.set_exact_guide()
    x = ppca.evidence.sample((5,))

    def norm(objective):
        loss = objective.differentiable_loss(ppca.vae.model, ppca.vae.guide, x)
        return max(g.abs().max() for g in torch.autograd.grad(loss, list(ppca.vae.posterior.parameters())))

    assert norm(StickingTheLanding()) < 1e-10
    assert norm(DReG(5)) < 1e-10
    assert norm(Trace_ELBO()) > 0.1


def signal_to_noise(tiny, objective, x):
    draws = torch.stack([tiny.sample(objective, x) for _ in range(60)])[:, -8:]
    return (draws.mean(0).abs() / draws.std(0)).mean()


def test_signal_to_noise_for_the_guide_grows_with_k_in_dreg_and_falls_in_iwae():
    """Rainforth et al. (2018), theorem 1: as 1/√K; Tucker et al. (2019), §3: as √K. K = 4 and 64: a factor of 4."""
    tiny, x = Tiny(1, scale=0.2), torch.ones(100, 3).double()
    with torch.no_grad():
        tiny.q["c"].fill_(0.3)  # wider than the posterior: bounded weights
    assert signal_to_noise(tiny, DReG(64), x) > 2 * signal_to_noise(tiny, DReG(4), x)
    assert signal_to_noise(tiny, IWAE(64), x) < signal_to_noise(tiny, IWAE(4), x) / 2


def test_bounds_rise_with_k_and_fall_with_alpha():
    tiny, x = Tiny(1), torch.randn(500, 3).double()

    def value(objective):
        torch.manual_seed(0)
        return -objective.loss(tiny.model, tiny.guide, x)

    assert value(Trace_ELBO()) < value(IWAE(2)) < value(IWAE(50))
    assert value(Renyi(2.0)) < value(Trace_ELBO(50)) < value(Renyi(0.5)) < value(IWAE(50)) < value(Renyi(-1.0))
    assert value(Renyi(0.998)) == pytest.approx(value(Trace_ELBO(50)), rel=1e-2)
    assert value(IWAE(1)) == pytest.approx(value(Trace_ELBO(1)))
    assert math.isfinite(value(Renyi(-5.0)))
