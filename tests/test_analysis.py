import math

import pytest
import torch
from conftest import make_ppca
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae import analysis
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal, FullCovariance
from pyro_vae.marginal import Exact


@pytest.mark.parametrize("guide", [Diagonal, FullCovariance])
def test_gaps_of_a_linear_model_are_the_closed_forms(guide):
    """The best diagonal q has variances 1/Λ_ii, the best full-covariance one is the posterior."""
    ppca = make_ppca(guide)
    x = ppca.evidence.sample((30,))
    values = analysis.gaps(ppca.vae.model, ppca.vae.guide, x, Exact(), num_steps=400, num_samples=2000)
    torch.testing.assert_close(values["log_px"], ppca.evidence.log_prob(x))
    precision = ppca.posterior(x).precision_matrix[0]
    best = 0.5 * (precision.diagonal().log().sum() - precision.logdet()) if guide is Diagonal else 0.0
    # Monte Carlo error of a mean log-weight near its optimum, and of 500 steps
    assert (values["approximation_gap"] - best).abs().max() < 0.1
    with torch.no_grad():
        q = ppca.vae.posterior(ppca.vae.encoder(x))
        scale_tril = torch.diag_embed(q.base_dist.scale) if guide is Diagonal else q.scale_tril
        kl = kl_divergence(MultivariateNormal(q.mean, scale_tril=scale_tril), ppca.posterior(x))
    total = values["approximation_gap"] + values["amortization_gap"]
    assert ((total - kl).abs() < 0.2 + 0.1 * kl).all()


def test_surgery_of_a_linear_model_is_the_closed_form(ppca):
    """With the exact posterior q(z) tends to the prior, and I(x; z) to ½ log det(I + Wᵀ W / σ²)."""
    ppca.set_exact_guide()
    x = ppca.evidence.sample((2000,))
    parts = analysis.surgery(ppca.vae.model, ppca.vae.guide, x, num_samples=3)
    M = torch.eye(2, dtype=torch.float64) + ppca.W.T @ ppca.W / ppca.sigma**2
    assert parts["mutual_information"] == pytest.approx(0.5 * M.logdet().item(), abs=0.1)
    assert parts["marginal_kl"] == pytest.approx(0, abs=0.05)
    assert parts["elbo"] == pytest.approx(ppca.evidence.log_prob(x).mean().item(), abs=1e-6)
    assert parts["kl"] == pytest.approx(parts["mutual_information"] + parts["marginal_kl"])
    assert (parts["active_units"], parts["latent_dim"], parts["num_data"]) == (2, 2, 2000)
    assert analysis.collapse(parts) is None


def test_mutual_information_is_bounded_by_log_n(ppca):
    ppca.set_exact_guide(widen=0.01)
    parts = analysis.surgery(ppca.vae.model, ppca.vae.guide, ppca.evidence.sample((20,)))
    assert parts["mutual_information"] == pytest.approx(math.log(20), abs=0.05)


def test_collapse_is_warned_of(ppca):
    with torch.no_grad():
        for p in ppca.vae.posterior.parameters():
            p.zero_()
    parts = analysis.surgery(ppca.vae.model, ppca.vae.guide, ppca.evidence.sample((50,)))
    assert parts["active_units"] == 0
    assert parts["mutual_information"] == pytest.approx(0, abs=1e-6)
    assert "0 of 2 latent dimensions" in analysis.collapse(parts)


@pytest.mark.parametrize("guide", ["low_rank", "mixture", "inverse_autoregressive", "neural_spline", "semi_amortized"])
def test_gaps_of_every_family_are_told_or_refused_in_a_line(guide):
    from functools import partial

    from hydra.utils import instantiate

    from pyro_vae.config import compose
    from pyro_vae.likelihoods import Bernoulli
    from pyro_vae.marginal import Refined
    from pyro_vae.networks import MLP
    from pyro_vae.priors import StandardNormal
    from pyro_vae.vae import VAE

    family = partial(instantiate, compose([f"guide={guide}"]).guide)
    vae, x = VAE.build([6], 2, MLP([8]), StandardNormal, Bernoulli, family), torch.rand(3, 6).round()
    if guide in ("low_rank", "semi_amortized"):  # the latter a member of the diagonal family
        parts = analysis.gaps(vae.model, vae.guide, x, Refined(100), num_steps=50)
        assert (parts["elbo_best"] > parts["elbo"] - 0.1).all()
        return
    with pytest.raises(BadInput, match="analysis=gaps cannot fit .* analysis=surgery") as caught:
        analysis.gaps(vae.model, vae.guide, x, Refined(20), num_steps=5)
    assert "\n" not in str(caught.value)
