import math
from dataclasses import replace
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import every, make_ppca
from hydra.utils import instantiate
from torch.distributions.transforms import AffineTransform

from pyro_vae import analysis
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal, FullCovariance, InverseAutoregressive, Mixture, NeuralSpline
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.marginal import Exact, Refined
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormal
from pyro_vae.programs.density import Latents
from pyro_vae.runs.config import compose
from pyro_vae.vae import VAE

AS_DIAGONAL = {
    "mixture of one": partial(Mixture, num_components=1),
    "diagonal": Diagonal,
    "flow not trained": partial(InverseAutoregressive, hidden=[8]),
    "spline not trained": partial(NeuralSpline, hidden=[8]),
}
"""Guides that can express what the diagonal one can."""


@pytest.mark.parametrize("name", ["full covariance", *every(4, AS_DIAGONAL)])
def test_gaps_of_a_linear_model_are_the_closed_forms(name):
    """The best diagonal q has variances 1/Λ_ii, the best full-covariance one is the posterior."""
    ppca = make_ppca(AS_DIAGONAL.get(name, FullCovariance))
    x = ppca.evidence.sample((10,))
    settings = {"num_steps": 100, "num_samples": 2000, "chunk_size": 15_000}
    values = analysis.gaps(ppca.vae.model, ppca.vae.guide, x, Exact(), **settings)
    assert list(values) == ["log_px", "elbo", "elbo_best", "approximation_gap", "amortization_gap", "rising"]
    assert values.elbo is values["elbo"]
    torch.testing.assert_close(values["log_px"], ppca.evidence.log_prob(x))
    precision = ppca.posterior(x).precision_matrix[0]
    diagonal = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    best = diagonal if name in AS_DIAGONAL else 0.0
    # Monte Carlo error of a mean log-weight near its optimum
    assert (values["approximation_gap"] - best).abs().max() < 0.1
    with torch.no_grad():
        latents = Latents.of(ppca.vae.model, x)
        u = latents.draw(ppca.vae.guide, x, num_samples=4000)
        log_ratio = latents.log_density(ppca.vae.guide, x)(u) - ppca.posterior(x).log_prob(u)
    kl, error = log_ratio.mean(0), log_ratio.std(0) / math.sqrt(4000)
    total = values["approximation_gap"] + values["amortization_gap"]
    assert ((total - kl).abs() < 0.1 + 5 * error).all()


@pytest.mark.parametrize("guide", every(2, [partial(InverseAutoregressive, hidden=[16]), Mixture]))
def test_gaps_of_a_richer_family_are_smaller_than_those_of_the_diagonal(guide):
    """What such a family reaches has no closed form: but it lies between the best diagonal q and the posterior."""
    ppca = make_ppca(guide)
    x = ppca.evidence.sample((200,))
    optimizer = torch.optim.Adam(ppca.vae.posterior.parameters(), lr=1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        q = ppca.vae.q_z(x)
        z = q.rsample((8,))
        (q.log_prob(z) - ppca.vae.log_joint(x, None, z)).mean().backward()
        optimizer.step()
    values = analysis.gaps(ppca.vae.model, ppca.vae.guide, x[:10], Exact(), num_steps=100, num_samples=2000)
    precision = ppca.posterior(x).precision_matrix[0]
    diagonal = 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    assert (values["approximation_gap"] > -0.05).all()
    assert values["approximation_gap"].mean() < 0.7 * diagonal
    assert values["amortization_gap"].mean() > -0.02


def test_surgery_of_a_linear_model_is_the_closed_form(ppca):
    """With the exact posterior q(z) tends to the prior, and I(x; z) to ½ log det(I + Wᵀ W / σ²)."""
    ppca.set_exact_guide()
    x = ppca.evidence.sample((1000,))
    parts = analysis.surgery(ppca.vae.model, ppca.vae.guide, x, num_samples=3)
    M = torch.eye(2, dtype=torch.float64) + ppca.W.T @ ppca.W / ppca.sigma**2
    # a control variate: E[z | x] of all x has the covariance I − M⁻¹
    squares = ppca.posterior(x).mean.square().sum(-1).mean() - (2 - M.inverse().trace())
    assert parts["mutual_information"] == pytest.approx(0.5 * (M.logdet() + squares).item(), abs=0.1)
    assert parts["marginal_kl"] == pytest.approx(0, abs=0.05)
    assert parts["elbo"] == pytest.approx(ppca.evidence.log_prob(x).mean().item(), abs=1e-6)
    assert parts["kl"] == pytest.approx(parts["mutual_information"] + parts["marginal_kl"])
    assert (parts["active_units"], parts["latent_dim"], parts["num_data"]) == (2, 2, 1000)
    assert not parts.is_collapsed
    assert not parts["mutual_information_at_limit"]


MEANS = torch.tensor([[6.0, 0.0], [-3.0, 5.0], [-3.0, -5.0]])


@pytest.mark.parametrize("informed", [False, True])
def test_surgery_of_a_conditional_model_is_given_the_label(informed):
    """z depends on the class by its prior alone; or on x, too: z = x + ε/2 with x ~ N(mean of the class, 1)."""

    def model(x, y):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(MEANS[y], math.sqrt(1.25) if informed else 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z if informed else torch.zeros_like(z), 1.0).to_event(1), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x if informed else MEANS[y], 0.5 if informed else 1.0).to_event(1))

    y = torch.arange(1500) % 3
    x = MEANS[y] + torch.randn(1500, 2)
    parts = analysis.surgery(model, guide, x, y, chunk_size=40_000)
    # ½ log(1 + 1/0.25) nats a dimension; q(z | y) is the prior
    assert parts["mutual_information"] == pytest.approx(math.log(5) if informed else 0, abs=0.1)
    assert parts["marginal_kl"] == pytest.approx(0, abs=0.05)
    assert parts["active_units"] == (2 if informed else 0)
    assert parts.is_collapsed != informed


def test_covariates_of_each_row_cannot_tell_a_collapse():
    """Every row is its own group, and the mean of a single row does not vary."""

    def model(x, y):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(y.expand(-1, 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x, y):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal((x + y) / 2, math.sqrt(0.5)).to_event(1))

    y = torch.randn(50, 1)
    parts = analysis.surgery(model, guide, y + math.sqrt(2) * torch.randn(50, 2), y)
    assert (parts.active_units, parts.is_collapsed) == (0, False)


def test_surgery_does_not_depend_on_what_is_in_memory_at_once(ppca, monkeypatch):
    x = ppca.evidence.sample((23,))
    parts = []
    for chunk_size in (100_000, 40):
        torch.manual_seed(0)
        parts.append(analysis.surgery(ppca.vae.model, ppca.vae.guide, x, chunk_size=chunk_size))
        monkeypatch.setattr("pyro_vae.programs.memory.LARGEST", 30 * 5 * 8)  # of the second
    for name in ("elbo", "kl", "mutual_information", "marginal_kl"):
        assert parts[1][name] == pytest.approx(parts[0][name], rel=1e-10)


def test_mutual_information_is_bounded_by_log_n(ppca):
    ppca.set_exact_guide(widen=0.01)
    parts = analysis.surgery(ppca.vae.model, ppca.vae.guide, ppca.evidence.sample((20,)))
    assert parts["mutual_information"] == pytest.approx(math.log(20), abs=0.05)
    assert parts["mutual_information_at_limit"]


@pytest.mark.parametrize(("N", "at_limit"), [(30, True), (3000, False)])
def test_mutual_information_is_at_its_limit_where_it_misses_the_truth(N, at_limit):
    """z = x + ε/10 of 2 dimensions: I(x; z) = log(1 + 100) = 4.6 nats, log 30 is 3.4, log 3000 8."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), math.sqrt(1.01)).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 0.1).to_event(1))

    parts = analysis.surgery(model, guide, torch.randn(N, 2), num_samples=1)
    assert parts["mutual_information_at_limit"] == at_limit
    error = math.log(101) - parts["mutual_information"]
    assert error > 0.5 if at_limit else abs(error) < 0.2


def test_few_classes_reach_their_limit_within_a_label():
    """A label of one datapoint has no others to be told from."""

    def model(x, y):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    guide = pyro.poutine.block(model, hide=["x"])
    y = torch.zeros(50, dtype=torch.long)
    parts = analysis.surgery(model, guide, torch.randn(50, 1), y)
    assert not parts["mutual_information_at_limit"]  # q(z | x) is the prior
    y[0] = 1
    assert analysis.surgery(model, guide, torch.randn(50, 1), y)["mutual_information_at_limit"]


def test_collapse_is_warned_of(ppca):
    with torch.no_grad():
        for p in ppca.vae.posterior.parameters():
            p.zero_()
    parts = analysis.surgery(ppca.vae.model, ppca.vae.guide, ppca.evidence.sample((50,)))
    assert parts["active_units"] == 0
    assert parts["mutual_information"] == pytest.approx(0, abs=1e-6)
    assert parts.is_collapsed
    assert not replace(parts, num_data=1).is_collapsed  # whose mutual information is 0 whatever the model


@pytest.mark.parametrize("latent_dim", [10, [6, 4]])
def test_units_that_know_nothing_of_x_are_not_active(latent_dim):
    """Whose means are known from draws only, of a flow's draws and of an upper layer's."""
    guide = partial(InverseAutoregressive, hidden=[16]) if latent_dim == 10 else Diagonal
    vae = VAE.build([5], latent_dim, MLP([8]), StandardNormal, Bernoulli, guide)
    with torch.no_grad():
        for layer in vae.encoder:
            if isinstance(layer, torch.nn.Linear):
                layer.weight.zero_()
        parts = analysis.surgery(vae.model, vae.guide, torch.rand(200, 5).round(), num_samples=1)
    assert parts["active_units"] == 0


def test_gaps_of_latents_on_part_of_the_real_line_are_refused():
    def model(x):
        with pyro.plate("data", len(x)):
            rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
            pyro.sample("x", dist.Poisson(rate), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("rate", dist.Gamma(2.0 + x, 2.0))

    with pytest.raises(BadInput, match="analysis=gaps needs latents on the whole real line"):
        analysis.gaps(model, guide, torch.tensor([0.0, 3.0]), Refined(100))


def test_gaps_of_a_family_without_parameters_are_refused_in_a_line():
    """A draw from a network's output, say, of which no more is known."""

    class Opaque(Diagonal):
        def forward(self, h, log_joint=None):
            q = super().forward(h)
            return dist.TransformedDistribution(q, [AffineTransform(0.0, 2.0, event_dim=1)])

    ppca = make_ppca(Opaque)
    with pytest.raises(BadInput, match="analysis=gaps cannot fit .* analysis=surgery") as caught:
        analysis.gaps(ppca.vae.model, ppca.vae.guide, ppca.evidence.sample((3,)), Exact(), num_steps=5)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "guide", every(2, ["neural_spline", "low_rank", "mixture", "inverse_autoregressive", "semi_amortized"])
)
def test_gaps_of_every_guide_by_name(guide):
    family = partial(instantiate, compose([f"guide={guide}"]).guide)
    vae, x = VAE.build([6], 2, MLP([8]), StandardNormal, Bernoulli, family), torch.rand(3, 6).round()
    parts = analysis.gaps(vae.model, vae.guide, x, Refined(100), num_steps=50)
    assert (parts["elbo_best"] > parts["elbo"] - 0.1).all()


def test_units_are_active_from_a_variance_of_a_hundredth_on():
    """Burda et al. (2016), §5.2; the variances here are known to 4.5 %."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(torch.zeros_like(x), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x, 0.1).to_event(1))

    x = torch.randn(1000, 2) * torch.tensor([0.007, 0.013]).sqrt()
    assert analysis.surgery(model, guide, x, num_samples=1)["active_units"] == 1
