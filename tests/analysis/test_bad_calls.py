"""Wrong arguments of analyses are rejected with one line."""

import pyro
import pytest
import torch
from pyro.distributions import Normal

from pyro_vae.analysis.certificate import certificate
from pyro_vae.analysis.gaps import gaps
from pyro_vae.analysis.imputation import impute
from pyro_vae.errors import BadInput
from pyro_vae.marginal import BDMC, Auto, Importance, NoEstimate

x = torch.zeros(3, 2)
dropout = torch.nn.Dropout(0.5)


def model(x, decode=torch.tanh):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", Normal(decode(z), 1.0).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", Normal(0.5 * x, 1.0).to_event(1))


@pytest.mark.parametrize("estimator", [BDMC(), NoEstimate()])
def test_gaps_need_log_px_of_the_data(estimator):
    with pytest.raises(BadInput, match="does not estimate log p.x. of given data"):
        gaps(model, guide, x, estimator)


@pytest.mark.parametrize("observed", [None, torch.ones(3, 2), torch.ones(3).bool()])
def test_imputation_needs_a_mask(observed):
    with pytest.raises(BadInput, match="observed must be a tensor of bools"):
        impute(model, guide, x, observed)


def test_the_upper_bound_of_certificates_needs_two_samples():
    with pytest.raises(BadInput, match="num_samples=1 must be at least 2"):
        certificate(model, guide, x, Auto(), num_samples=1)


def test_densities_must_not_be_random():
    with pytest.raises(BadInput, match="site x of the model at given latents is random.*dropout"):
        Importance()(lambda x: model(x, dropout), guide, x)
