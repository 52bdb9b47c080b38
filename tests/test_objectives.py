import math

import pyro
import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae.errors import BadInput
from pyro_vae.objectives import Trace_ELBO, TraceMeanField_ELBO

OBJECTIVES = [Trace_ELBO, TraceMeanField_ELBO]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_expectation_is_the_exact_elbo(objective, ppca):
    """Σ_i log p(x_i) − KL(q ‖ p(z | x_i)) in closed form."""
    x = ppca.evidence.sample((10,))
    with torch.no_grad():
        q = ppca.vae.posterior(ppca.vae.encoder(x))
        kl = kl_divergence(MultivariateNormal(q.loc, scale_tril=q.scale_tril), ppca.posterior(x))
        exact = (ppca.evidence.log_prob(x) - kl).sum()
        elbo = objective(num_particles=100)
        draws = torch.stack([-elbo.differentiable_loss(ppca.vae.model, ppca.vae.guide, x) for _ in range(200)])
    assert abs(draws.mean() - exact) < 4.5 * draws.std() / math.sqrt(len(draws))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("num_particles", [1, 3])
def test_log_likelihood_is_the_observed_sites_part(objective, num_particles, small_vae):
    x, seen = torch.rand(5, 6).double().round(), []
    small_vae.decoder.register_forward_hook(lambda module, args, out: seen.append(out))
    elbo = objective(num_particles=num_particles)
    elbo.differentiable_loss(small_vae.model, small_vae.guide, x)
    logits = seen[-1].reshape(-1, 5, 6)  # [num_particles, 5, 6]
    expected = -torch.nn.functional.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="sum")
    torch.testing.assert_close(elbo.log_likelihood, expected.detach() / num_particles)


@pytest.mark.parametrize(
    ("ours", "pyros"), [(Trace_ELBO, pyro.infer.Trace_ELBO), (TraceMeanField_ELBO, pyro.infer.TraceMeanField_ELBO)]
)
def test_value_is_pyros(ours, pyros, small_vae):
    x = torch.rand(5, 6).double().round()
    values = []
    for objective in (ours(), pyros()):
        torch.manual_seed(0)
        values.append(objective.differentiable_loss(small_vae.model, small_vae.guide, x))
    torch.testing.assert_close(*values)


def test_mean_field_equals_plain_torch(small_vae):
    """−ELBO of the Gaussian VAE as in Kingma & Welling (2014), appendix B, written out."""
    x = torch.rand(5, 6).double().round()
    torch.manual_seed(0)
    loss = TraceMeanField_ELBO().differentiable_loss(small_vae.model, small_vae.guide, x)
    torch.manual_seed(0)
    mu, log_sigma = small_vae.posterior.loc_log_scale(small_vae.encoder(x)).chunk(2, -1)
    z = mu + log_sigma.exp() * torch.randn(5, 2, dtype=torch.float64)
    p = small_vae.decoder(z).squeeze(1).sigmoid()
    reconstruction = (x * p.log() + (1 - x) * (1 - p).log()).sum()
    kl = -0.5 * (1 + 2 * log_sigma - mu**2 - (2 * log_sigma).exp()).sum()
    torch.testing.assert_close(loss, kl - reconstruction)


def test_refuses_no_particles():
    with pytest.raises(BadInput, match="objective.num_particles=0"):
        Trace_ELBO(num_particles=0)
