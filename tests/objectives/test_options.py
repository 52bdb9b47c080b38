"""What the objectives refuse, what they tell, and what they keep of a loss."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from tiny import Tiny

from pyro_vae import objectives
from pyro_vae.errors import BadInput
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
    VariationalEM,
)

ALL = [getattr(objectives, name) for name in objectives.__all__ if name not in ("Bound", "Objective")]
OF_ANY_MODEL = [cls for cls in ALL if cls is not objectives.SemiSupervised]
THROUGH_DRAWS = [IWAE, Renyi, DReG, StickingTheLanding, TraceMeanField_ELBO, BetaVAE, KLAnnealing, FreeBits]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        *((lambda cls=cls: cls(num_particles=0), "num_particles=0") for cls in ALL),
        (lambda: Trace_ELBO(num_particles=1.5), "num_particles=1.5"),
        (lambda: BetaVAE(beta=-1), "beta=-1 must be at least 0"),
        (lambda: BetaVAE(beta=float("nan")), "beta=nan"),
        (lambda: BetaVAE(beta=float("inf")), "beta=inf"),
        (lambda: BetaVAE(beta="4"), "beta='4'"),
        (lambda: BetaVAE(beta=True), "beta=True"),
        (lambda: KLAnnealing(start=1.5), "start=1.5 must be at least 0 and at most 1"),
        (lambda: KLAnnealing(num_epochs=0), "num_epochs=0"),
        (lambda: KLAnnealing(num_cycles=0), "num_cycles=0"),
        (lambda: KLAnnealing(rise=0.0), "rise=0.0"),
        (lambda: KLAnnealing(rise=1.1), "rise=1.1"),
        (lambda: FreeBits(free_nats=0), "free_nats=0"),
        (lambda: Renyi(alpha=1.0), "alpha=1.0 is the ELBO: use objective=trace_elbo"),
        (lambda: Renyi(alpha=0.9999), "alpha=0.9999"),
        (lambda: ReweightedWakeSleep(insomnia=1.5), "insomnia=1.5"),
        (lambda: VariationalEM(e_steps=0), "e_steps=0"),
        (lambda: VariationalEM(m_steps=0), "m_steps=0"),
    ],
)
def test_refuses_options_out_of_range(make, message):
    with pytest.raises(BadInput, match=message):
        make()


def program(name, distribution):
    """A program of one latent site with two dimensions."""

    def run(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", distribution(x))
            if name == "model":
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    return run


def normal(x):
    return dist.Normal(x, torch.ones_like(x)).to_event(1)


def categorical(x):
    return dist.OneHotCategorical(logits=x)


def point(x):
    return dist.Delta(x, event_dim=1)


def mixture(x):
    components = dist.Normal(x[..., None], 1.0).expand([len(x), 2, 2]).to_event(1)
    return dist.MixtureSameFamily(dist.Categorical(logits=x), components)


X = torch.zeros(4, 2)


@pytest.mark.parametrize("objective", THROUGH_DRAWS)
def test_refuses_draws_that_it_cannot_differentiate(objective):
    message = (
        f"objective={objective.name} needs a reparameterized guide, q.z . x. is a OneHotCategorical: use "
        "objective=score_function or reweighted_wake_sleep"
    )
    with pytest.raises(BadInput, match=message):
        objective().check(program("model", categorical), program("guide", categorical), X)


@pytest.mark.parametrize("objective", [ScoreFunction, ReweightedWakeSleep])
def test_refuses_a_guide_without_density(objective):
    assert objective().check(program("model", categorical), program("guide", categorical), X) is None
    with pytest.raises(BadInput, match=f"objective={objective.name} .* point: use objective=trace_elbo"):
        objective().check(program("model", normal), program("guide", point), X)


@pytest.mark.parametrize("objective", [Trace_ELBO, VariationalEM])
def test_notes_the_score_function(objective):
    model, guide = program("model", categorical), program("guide", categorical)
    assert "objective=score_function has" in objective().check(model, guide, X)


def test_notes_a_kl_without_closed_form():
    guide, objective = program("guide", normal), BetaVAE()
    assert objective.check(program("model", normal), guide, X) is None
    assert objective.check(program("model", normal), program("guide", point), X) is None
    note = objective.check(program("model", mixture), guide, X)
    assert note == "objective=beta_vae: the KL of this guide and prior has no closed form, Monte Carlo estimates it"
    tiny = Tiny(2)
    note = objective.check(tiny.model, tiny.guide, torch.zeros(4, 3).double(), torch.zeros(4))
    assert "with 2 latent sites the KL is estimated by Monte Carlo" in note


@pytest.mark.parametrize("objective", OF_ANY_MODEL)
def test_nothing_to_note_of_a_gaussian_vae(objective, ppca):
    assert objective().check(ppca.vae.model, ppca.vae.guide, torch.zeros(3, 5).double(), None) is None


def test_weights_at_the_end_of_training():
    assert {cls.name: cls().kl_weight for cls in ALL if cls().kl_weight != 1} == {"beta_vae": 4.0}


def test_beta_schedule():
    def betas(objective, epochs):
        values = []
        for epoch in epochs:
            objective.at_step(0, epoch)
            values.append(objective.beta.item())
        return values

    assert betas(KLAnnealing(start=0.2, num_epochs=4), [0, 1, 2.5, 4, 9]) == pytest.approx([0.2, 0.4, 0.7, 1, 1])
    cyclical = KLAnnealing(num_epochs=8, num_cycles=2, rise=0.5)
    epochs = [0, 1, 2, 3.9, 4, 5, 6, 7.9, 8, 20]
    assert betas(cyclical, epochs) == pytest.approx([0, 0.5, 1, 1, 0, 0.5, 1, 1, 1, 1])


def test_log_density_of_a_point_is_left_out_of_the_elbo():
    objective = Trace_ELBO(num_particles=3)
    loss, elbo, log_likelihood = objective.bound(program("model", normal), program("guide", point), X)
    assert elbo == log_likelihood
    assert loss.item() == pytest.approx(-4 * 2 * 2 * dist.Normal(0.0, 1.0).log_prob(torch.zeros(())).item())  # p(x, z)


@pytest.mark.parametrize("objective", OF_ANY_MODEL)
def test_a_draw_is_enough_for_the_gradient_of_one_and_of_two_layers(objective):
    """With its defaults, in Pyro's own SVI."""
    for tiny in (Tiny(1), Tiny(2)):
        before = torch.nn.utils.parameters_to_vector(tiny.parameters()).detach().clone()
        svi = pyro.infer.SVI(tiny.model, tiny.guide, pyro.optim.Adam({"lr": 0.01}), loss=objective())
        svi.step(torch.randn(4, 3).double())
        assert svi.evaluate_loss(torch.randn(4, 3).double()) < 1e6
        assert (torch.nn.utils.parameters_to_vector(tiny.parameters()) != before).sum() >= 8
        pyro.clear_param_store()


@pytest.mark.filterwarnings("error")
def test_pyros_mean_field_warning_does_not_apply_to_several_layers():
    tiny = Tiny(2)
    TraceMeanField_ELBO().differentiable_loss(tiny.model, tiny.guide, torch.zeros(4, 3).double())


def test_single_site_kl_is_exact(ppca):
    """With the guide's own draws, log p(z) − log q(z | x) is noisy; the KL's share of the loss is not."""
    x, losses = ppca.evidence.sample((4,)), []
    for _ in range(2):
        objective = TraceMeanField_ELBO()
        loss, _, log_likelihood = objective.bound(ppca.vae.model, ppca.vae.guide, x)
        losses.append(loss.item() + log_likelihood.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_free_bits_are_those_of_one_process(small_vae, monkeypatch):
    monkeypatch.setattr("pyro_vae.parallel.collectives.world_size", lambda: 2)
    with pytest.raises(BadInput, match="objective=free_bits needs the KL of a whole batch: start it without torchrun"):
        FreeBits().check(small_vae.model, small_vae.guide, torch.zeros(2, 6).double())
