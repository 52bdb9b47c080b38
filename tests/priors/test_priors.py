import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from pyro_vae.errors import BadInput
from pyro_vae.priors import Categorical, ClassConditional, Flow, Mixture, StandardNormal, Vamp

CONTINUOUS = [StandardNormal, ClassConditional, Mixture, Vamp, Flow]


def posterior(u):
    """A guide of pseudo-inputs u [C, 3]."""
    return dist.Normal(u[:, :2], 0.5 + u[:, 2:].abs()).to_event(1)


def make(prior):
    """In general position, two-dimensional, of data with 3 entries and 4 classes."""
    p = prior(2, data_shape=[3], num_classes=4).double()
    with torch.no_grad():
        for parameter in () if prior is Flow else p.parameters():
            parameter.copy_(0.6 * torch.randn_like(parameter))
    return p


def p_z(prior, n=1):
    y = torch.arange(n) % 4 if prior is ClassConditional else None
    return make(prior)(y, posterior)


GRID = torch.linspace(-9, 9, 361, dtype=torch.float64)
POINTS = torch.stack(torch.meshgrid(GRID, GRID, indexing="ij"), -1).reshape(-1, 1, 2)


@pytest.mark.parametrize("prior", CONTINUOUS)
def test_density_integrates_to_one_and_draws_fall_where_it_says(prior):
    with torch.no_grad():
        p = p_z(prior).expand([1])
        density = p.log_prob(POINTS).exp().squeeze(-1) * (GRID[1] - GRID[0]) ** 2
        assert density.sum().item() == pytest.approx(1, abs=1e-4)
        n = 20_000
        z = p.sample((n,)).squeeze(1)
    # their borders run between the grid's points
    for region in (lambda z: z[..., 0] > 0.325, lambda z: z[..., 1] < -0.525, lambda z: (z.abs() < 1.025).all(-1)):
        mass = density[region(POINTS).squeeze(-1)].sum()
        assert abs(region(z).double().mean() - mass) < 4.5 * (mass * (1 - mass) / n).sqrt() + 1e-4


@pytest.mark.parametrize("prior", CONTINUOUS)
def test_serves_plates_and_gradients(prior):
    module = make(prior)
    y = torch.tensor([0, 1, 3]) if prior is ClassConditional else None

    def model():
        with pyro.plate("num_samples", 5, dim=-2), pyro.plate("data", 3, dim=-1):
            return pyro.sample("z", module(y, posterior))

    trace = pyro.poutine.trace(model).get_trace()
    trace.compute_log_prob()
    assert trace.nodes["z"]["value"].shape == (5, 3, 2)
    assert trace.nodes["z"]["log_prob"].shape == (5, 3)
    z = torch.randn(5, 3, 2, dtype=torch.float64, requires_grad=True)
    module(y, posterior).log_prob(z).sum().backward()
    for parameter in module.parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0


def test_standard_normal():
    prior, z = StandardNormal(3).double(), torch.randn(5, 3, dtype=torch.float64)
    assert prior().event_shape == (3,)
    assert prior().batch_shape == ()
    expected = torch.tensor(stats.norm.logpdf(z.numpy()).sum(1))
    torch.testing.assert_close(prior().log_prob(z), expected)
    assert not prior.state_dict()


def test_class_conditional_is_a_unit_normal_around_the_mean_of_the_class():
    prior, y = make(ClassConditional), torch.tensor([2, 0, 2])
    z = torch.randn(3, 2, dtype=torch.float64)
    expected = stats.norm.logpdf(z.numpy(), prior.loc.detach().numpy()[y.numpy()]).sum(1)
    np.testing.assert_allclose(prior(y).log_prob(z).detach().numpy(), expected)
    with pytest.raises(BadInput, match="give y, labels from 0 to 3"):
        prior()
    with pytest.raises(BadInput, match="needs labels"):
        ClassConditional(2, data_shape=[3], num_classes=None)


def test_mixture_is_the_sum_over_its_components():
    prior = make(Mixture)
    z = torch.randn(6, 2, dtype=torch.float64)
    weights = prior.logits.detach().exp().numpy()
    components = [
        stats.multivariate_normal(m, np.diag(np.exp(2 * s))).pdf(z.numpy())
        for m, s in zip(prior.loc.detach().numpy(), prior.log_scale.detach().numpy(), strict=True)
    ]
    expected = np.log(weights / weights.sum() @ np.array(components))
    np.testing.assert_allclose(prior().log_prob(z).detach().numpy(), expected)


def test_vamp_is_the_mean_of_the_posteriors_of_its_pseudo_inputs():
    prior = make(Vamp)
    z = torch.randn(6, 2, dtype=torch.float64)
    densities = posterior(prior.pseudo_inputs).log_prob(z.unsqueeze(1)).exp()  # [6, C]
    torch.testing.assert_close(prior(None, posterior).log_prob(z), densities.mean(1).log())
    with pytest.raises(BadInput, match="prior=vamp needs a guide of x alone"):
        prior()


def test_vamp_starts_at_datapoints():
    prior, x = Vamp(2, data_shape=[3], num_pseudo_inputs=7), torch.rand(20, 3)
    prior.initialize_from(x)
    assert (torch.cdist(prior.pseudo_inputs, x).amin(1) == 0).all()


def test_flow_is_a_change_of_variables():
    p = p_z(Flow)
    z = torch.randn(4, 2, dtype=torch.float64)
    to_noise = p.dist.transform
    for value in z:
        jacobian = torch.autograd.functional.jacobian(to_noise, value)
        noise = to_noise(value)
        expected = torch.distributions.Normal(0, 1).log_prob(noise).sum() + jacobian.det().abs().log()
        torch.testing.assert_close(p.log_prob(value), expected)


def test_categorical_draws_one_hot_vectors_at_its_frequencies():
    prior = Categorical(3).double()
    with torch.no_grad():
        prior.logits.copy_(torch.tensor([0.2, 0.3, 0.5]).log() + 1)
    p, pi = prior(), torch.tensor([0.2, 0.3, 0.5]).double()
    torch.testing.assert_close(p.log_prob(torch.eye(3).double()).exp(), pi, rtol=1e-6, atol=0)
    n = 20_000
    frequency = p.sample((n,)).mean(0)
    assert ((frequency - pi).abs() < 4.5 * (pi * (1 - pi) / n).sqrt()).all()


def test_means_of_classes_start_at_the_radius():
    prior = ClassConditional(2, num_classes=4, radius=3.0)
    torch.testing.assert_close(prior.loc.detach().norm(dim=1), torch.full((4,), 3.0))


@pytest.mark.parametrize(
    ("prior", "settings", "message"),
    [
        (Mixture, {"num_components": 0}, "num_components=0"),
        (Vamp, {"num_pseudo_inputs": -1}, "num_pseudo_inputs=-1"),
        (Flow, {"num_transforms": 0}, "num_transforms=0"),
        (Flow, {"hidden": [0]}, "hidden=0"),
    ],
)
def test_bad_settings(prior, settings, message):
    with pytest.raises(BadInput, match=message):
        prior(2, data_shape=[3], **settings)


def test_flow_without_zuko_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "zuko.flows", None)
    with pytest.raises(BadInput, match=r"pip install -e '.\[flows\]'"):
        Flow(2)
    assert math.isfinite(Mixture(2)().log_prob(torch.zeros(2)).item())
