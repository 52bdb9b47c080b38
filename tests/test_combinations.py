"""Every guide with every prior and every objective: it trains, or is refused by a line that says what to take."""

from functools import partial
from itertools import product

import pyro
import pytest
import torch
from conftest import COLUMNS, every
from hydra.utils import instantiate
from omegaconf import OmegaConf

from pyro_vae.analysis import surgery
from pyro_vae.errors import BadInput
from pyro_vae.marginal import AIS, ELBO, Importance, Refined
from pyro_vae.networks import MLP
from pyro_vae.runs.config import CONFIG_DIR
from pyro_vae.vae import VAE


def options(group):
    return sorted(f.stem for f in (CONFIG_DIR / group).glob("*.yaml"))


SMALL = {
    ("prior", "vamp"): {"num_pseudo_inputs": 4},
    ("likelihood", "categorical"): {"num_levels": 2},
    ("likelihood", "discretized_logistic"): {"num_levels": 2},
    ("likelihood", "discretized_logistic_mixture"): {"num_levels": 2},
    ("likelihood", "table"): {"columns": COLUMNS},
}
CONFIG = {  # of single files: to compose all of them would take seconds
    (group, name): OmegaConf.merge(OmegaConf.load(CONFIG_DIR / group / f"{name}.yaml"), SMALL.get((group, name), {}))
    for group in ("guide", "prior", "objective", "likelihood")
    for name in options(group)
}
DISCRETE = ("categorical", "enumerated")
THROUGH_DRAWS = (
    "beta_vae", "dreg", "free_bits", "iwae", "kl_annealing", "renyi", "sticking_the_landing", "trace_mean_field_elbo",
)  # fmt: skip
OF_DENSITY = ("iwae", "renyi", "dreg", "sticking_the_landing", "reweighted_wake_sleep", "score_function")


def refused(guide, prior, objective):
    """What the line says, if there is one."""
    if prior == "vamp" and guide in ("semi_amortized", "enumerated", "point"):
        return "prior=vamp needs a guide of x alone that has a density"
    if (guide in DISCRETE) != (prior == "categorical"):
        return "the prior .* is (discrete|continuous), the guide .* is (discrete|continuous): combine prior=categorical"
    if guide in DISCRETE and objective in THROUGH_DRAWS:
        return "needs a reparameterized guide"
    if objective == "semi_supervised":
        return "needs a model of classes: use conditioning=semi_supervised"
    if guide == "point" and objective in OF_DENSITY:
        return "needs the density of the guide"
    return None


def build(guide, prior, likelihood="bernoulli", latent_dim=3, conditioning="none"):
    families = {
        name: partial(instantiate, CONFIG[name, option])
        for name, option in (("guide", guide), ("prior", prior), ("likelihood", likelihood))
    }
    network = MLP([8], upper_hidden=[8])
    return VAE.build([5], latent_dim, network, **families, conditioning=conditioning, num_classes=3)


def check(guide, prior, objective, x, y):
    vae = build(guide, prior)
    instantiate(CONFIG["objective", objective]).check(vae.model, vae.guide, x, y)


def step(vae, objective, x, y):
    """A step of SGD, in which what moves moves by finite amounts."""
    pyro.clear_param_store()
    before = [p.detach().clone() for p in vae.parameters()]
    note = objective.check(vae.model, vae.guide, x, y)
    assert note is None or "\n" not in note
    loss, elbo, log_likelihood = objective.bound(vae.model, vae.guide, x, y)
    assert loss.isfinite()
    if not loss.requires_grad:  # variational EM's E-step
        assert not list(vae.posterior.parameters())
        return
    loss.backward()
    assert elbo.isfinite()
    assert log_likelihood.isfinite()
    moved = [p for p in vae.parameters() if p.grad is not None]
    assert moved
    assert all(p.grad.isfinite().all() for p in moved)
    assert all(torch.equal(p, old) for p, old in zip(vae.parameters(), before, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("objective", options("objective"))
@pytest.mark.parametrize("guide", options("guide"))
def test_guide_prior_and_objective(guide, objective):
    x, y = torch.rand(4, 5).round(), torch.tensor([0, 1, 2, 0])
    for prior in options("prior"):
        line = refused(guide, prior, objective)
        if line is None:
            step(build(guide, prior), instantiate(CONFIG["objective", objective], num_particles=3), x, y)
            continue
        with pytest.raises(BadInput, match=line) as caught:
            check(guide, prior, objective, x, y)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("likelihood", options("likelihood"))
def test_likelihood_with_labels_and_layers(likelihood):
    y = torch.tensor([0, 1, 2, 0])
    x = torch.rand(4, 5).round() if likelihood != "beta" else 0.1 + 0.8 * torch.rand(4, 5)
    for latent_dim, conditioning in product((3, [3, 2]), ("none", "concat")):
        for objective in ("trace_mean_field_elbo", "dreg", "score_function"):
            vae = build("full_covariance", "class_conditional", likelihood, latent_dim, conditioning)
            step(vae, instantiate(CONFIG["objective", objective], num_particles=2), x, y)
            assert vae.sample(2, y=1).shape == (2, 5)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # of data that are not what a likelihood is for
@pytest.mark.parametrize(("guide", "prior"), [("semi_amortized", "standard_normal"), ("enumerated", "categorical")])
@pytest.mark.parametrize("likelihood", options("likelihood"))
def test_likelihood_with_guides_that_look_at_it(likelihood, guide, prior):
    x = torch.rand(4, 5).round() if likelihood != "beta" else 0.1 + 0.8 * torch.rand(4, 5)
    vae = build(guide, prior, likelihood)
    step(vae, instantiate(CONFIG["objective", "trace_elbo"]), x, None)
    assert vae.log_prob(x, 50, estimator="importance").isfinite().all()
    drawn = vae.impute(x, x > x.median(), num_samples=2, num_steps=2)
    assert drawn.isfinite().all()


CONTINUOUS = [
    (guide, prior)
    for guide, prior in product(options("guide"), options("prior"))
    if guide not in (*DISCRETE, "point") and prior != "categorical"
]


@pytest.mark.parametrize(("guide", "prior"), every(8, CONTINUOUS, several=True))
def test_every_estimator_takes_every_continuous_guide_and_prior(guide, prior):
    """Refined against a fine grid over z; the others work."""
    if refused(guide, prior, "trace_elbo"):
        return
    torch.manual_seed(0)
    vae, x, y = build(guide, prior, latent_dim=2).double(), torch.rand(6, 5).double().round(), torch.arange(6) % 3
    axis = torch.linspace(-14, 14, 141, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2).expand(-1, 6, -1)
    with torch.no_grad():
        log_px = torch.logsumexp(vae.log_joint(x, y, grid), 0) + 2 * (axis[1] - axis[0]).log()
        evidence = Refined(300)(vae.model, vae.guide, x, y)
    reliable = ~(evidence.pareto_k > 0.7)
    assert reliable.double().mean() > 0.5
    assert ((evidence.log_px - log_px).abs() < 4.5 * evidence.se + 1e-3)[reliable].all()
    for estimator in (Importance(20), AIS(2, 3, 2)):
        assert estimator(vae.model, vae.guide, x, y).log_px.isfinite().all()
    se = ELBO(500)(vae.model, vae.guide, x, y).se.square().sum().sqrt() / len(x)
    assert surgery(vae.model, vae.guide, x, y, num_samples=500)["elbo"] < log_px.mean() + 4.5 * se
