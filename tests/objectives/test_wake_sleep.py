import pytest
import torch
from tiny import Tiny

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
    """A guide that makes use of θ, a model of φ: θ gets no gradient of log q, φ none of log p."""
    tiny, x = Tiny(1), torch.randn(5, 3).double()

    def model(x):
        tiny.model(x + tiny.q["c"].sum())

    def guide(x):
        tiny.guide(x + tiny.p["b"])

    loss = ReweightedWakeSleep(4).differentiable_loss(model, guide, x)
    z = [value.detach() for value in tiny.draws[0]]
    log_p, log_q = tiny.log_p(x + tiny.q["c"].sum(), z), tiny.log_q(x + tiny.p["b"], z)
    weights = (log_p - log_q).detach().softmax(0)
    torch.testing.assert_close(tiny.gradient(loss, "p"), tiny.gradient(-(weights * log_p).sum(), "p"))
    torch.testing.assert_close(tiny.gradient(loss, "q"), tiny.gradient(-(weights * log_q).sum(), "q"))


def test_wake_sleep_needs_one_particle_when_it_never_wakes():
    assert ReweightedWakeSleep(num_particles=1, insomnia=0.0).num_particles == 1
    with pytest.raises(BadInput, match="objective.num_particles=1 .* take 2 or more"):
        ReweightedWakeSleep(num_particles=1)
