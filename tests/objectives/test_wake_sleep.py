import pyro
import pyro.distributions as dist
import pytest
import torch
from tiny import Tiny, detached, log_normal

from pyro_vae.errors import BadInput
from pyro_vae.objectives import ReweightedWakeSleep


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("insomnia", [0.0, 0.3])
def test_sleep_is_the_gradient_of_log_q_at_draws_of_the_model(insomnia, layers):
    tiny, x = Tiny(layers), torch.randn(5, 3).double()
    torch.manual_seed(1)
    loss = ReweightedWakeSleep(4, insomnia).differentiable_loss(tiny.model, tiny.guide, x)
    gradient = tiny.gradient(loss, "q")
    dreamt, z = tiny.dreamt
    assert dreamt.shape == x.shape
    assert not torch.isclose(dreamt, x).any()
    torch.manual_seed(1)
    wake_loss = ReweightedWakeSleep(4).differentiable_loss(tiny.model, tiny.guide, x)
    wake, sleep = tiny.gradient(wake_loss, "q"), tiny.gradient(-tiny.log_q(dreamt, z).sum(), "q")
    torch.testing.assert_close(gradient, insomnia * wake + (1 - insomnia) * sleep)
    torch.testing.assert_close(tiny.gradient(loss, "p"), tiny.gradient(wake_loss, "p"))
    torch.testing.assert_close(loss, wake_loss)


def test_dreams_have_the_models_distribution():
    """x ~ N(0, B Bᵀ + diag e^2b)."""
    tiny = Tiny(1)
    ReweightedWakeSleep(2, 0.0).differentiable_loss(tiny.model, tiny.guide, torch.zeros(20_000, 3).double())
    x = tiny.dreamt[0]
    B, noise = tiny.p["B"].detach(), (2 * tiny.p["b"].detach()).exp()
    products = x[:, :, None] * x[:, None, :]
    se = products.std(0) / len(x) ** 0.5
    assert ((products.mean(0) - B @ B.T - noise.diag()).abs() < 4.5 * se).all()


def test_each_program_has_a_loss_of_its_own():
    """A guide that makes use of θ, a prior of φ: θ gets no gradient of log q, φ none of log p and of dreams."""
    tiny, x = Tiny(1), torch.randn(5, 3).double()
    mean, log_scale = tiny.q["c"], torch.zeros(2).double()

    def model(x):
        pyro.module("p", tiny.p)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z1", dist.Normal(mean.expand(len(x), 2), 1.0).to_event(1))
            x = pyro.sample("x", dist.Normal(z @ tiny.p["B"].T, tiny.p["b"].exp()).to_event(1), obs=x)
        tiny.dreamt = x, [z]

    def guide(x):
        tiny.guide(x + tiny.p["b"])

    loss = ReweightedWakeSleep(4, insomnia=0.5).differentiable_loss(model, guide, x)
    z, (dreamt, dreamt_z) = detached(tiny.draws[0]), tiny.dreamt
    log_p = log_normal(z[0], mean, log_scale) + tiny.log_likelihood(x, z)
    log_q = tiny.log_q(x + tiny.p["b"], z)
    weights = (log_p - log_q).detach().softmax(0)
    sleep = tiny.log_q(dreamt.detach() + tiny.p["b"], detached(dreamt_z))
    torch.testing.assert_close(tiny.gradient(loss, "p"), tiny.gradient(-(weights * log_p).sum(), "p"))
    phi = tiny.gradient(-0.5 * (weights * log_q).sum() - 0.5 * sleep.sum(), "q")
    torch.testing.assert_close(tiny.gradient(loss, "q"), phi)


def test_wake_sleep_needs_one_particle_when_it_never_wakes():
    assert ReweightedWakeSleep(num_particles=1, insomnia=0.0).num_particles == 1
    with pytest.raises(BadInput, match="num_particles=1 .* use 2 or more"):
        ReweightedWakeSleep(num_particles=1)


def test_dreams_lack_the_entries_that_the_data_lack():
    """The encoder sees the mask, and has to learn from dreams what it means."""
    x = torch.where(torch.arange(12).reshape(4, 3) % 2 == 0, torch.nan, 1.0)
    seen = []

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            of_x = dist.Normal(z[..., None], 1.0).expand([*z.shape, 3]).mask(~x.isnan()).to_event(1)
            pyro.sample("x", of_x, obs=torch.where(x.isnan(), 0.0, x))

    def guide(x):
        seen.append(x.isnan())
        loc = pyro.param("loc", torch.tensor(0.0))
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc.expand(len(x)), 1.0))

    ReweightedWakeSleep(2, insomnia=0.0).differentiable_loss(model, guide, x)
    assert len(seen) >= 2
    assert all(torch.equal(mask, x.isnan()) for mask in seen)
