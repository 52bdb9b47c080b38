"""Training with users' own modules: memory layouts, shared weights, dropout, schedules of programs."""

import math
from functools import partial

import pyro
import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal
from pyro_vae.likelihoods import Gaussian
from pyro_vae.missingness import SelfMasking
from pyro_vae.networks import Network
from pyro_vae.objectives import DReG, StickingTheLanding, Trace_ELBO
from pyro_vae.priors import StandardNormal
from pyro_vae.training.dry_run import DryRun
from pyro_vae.training.optim import JointOptim
from pyro_vae.training.state import State
from pyro_vae.training.svi import SVI, reported_loss
from pyro_vae.vae import VAE


class Product(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        return (x @ self.weight).tanh()


class OwnNetwork(Network):
    """A linear decoder, and an encoder with a weight in one of two memory layouts, or with dropout."""

    def __init__(self, encoder, dropout=0.0):
        self.own, self.dropout = encoder, dropout

    def encoder(self, data_shape, context_dim=0):
        return self.own

    def decoder(self, latent_dim, param_shape, context_dim=0):
        out = nn.Linear(latent_dim, math.prod(param_shape))
        return nn.Sequential(out, nn.Unflatten(-1, tuple(param_shape)), nn.Dropout(self.dropout))


class Warmup(Trace_ELBO):
    num_variants = 2

    def at_step(self, step, epoch):
        return epoch < 5


def vae_of(encoder, dropout=0.0, **options):
    torch.manual_seed(0)
    likelihood = partial(Gaussian, scale="fixed")
    return VAE.build([4], 2, OwnNetwork(encoder, dropout), StandardNormal, likelihood, Diagonal, **options)


def svi_of(vae, objective=None):
    pyro.clear_param_store()
    sgd = JointOptim(partial(torch.optim.SGD, lr=0.1))
    return SVI(vae.model, vae.guide, sgd, reported_loss(objective or Trace_ELBO()))


def dry_run(vae, objective, x, state=None):
    return DryRun(svi_of(vae, objective), objective, (x, None), state or State())


def test_a_weight_is_trained_in_any_memory_layout():
    weight, x = torch.randn(4, 4), torch.randn(100, 4)
    found = []
    for own in (weight.clone(), weight.T.contiguous().T):
        vae = vae_of(Product(own))
        svi = svi_of(vae)
        for seed in range(3):
            pyro.set_rng_seed(seed)
            svi.step(x, None, None)
        found.append(vae.encoder.weight.detach())
    assert (found[0] - weight).abs().max() > 1e-3
    torch.testing.assert_close(found[0], found[1])


def test_a_parameter_that_pyro_does_not_know_is_told_of():
    vae, x = vae_of(Product(torch.randn(4, 4))), torch.randn(10, 4)
    dry_run(vae, Trace_ELBO(), x).check()
    vae.encoder.weight.data = vae.encoder.weight.data.T.contiguous().T
    with pytest.raises(BadInput, match=r"a parameter of shape \[4, 4\] is not in Pyro's param store"):
        dry_run(vae, Trace_ELBO(), x).check()


def test_a_shared_weight_is_stepped_once():
    class Tied(nn.Module):
        def __init__(self, linear):
            super().__init__()
            self.weight = linear.weight

        def forward(self, z):
            return (z.tanh() @ self.weight[:2]).unsqueeze(-2)

    class Shares(OwnNetwork):
        def decoder(self, latent_dim, param_shape, context_dim=0):
            return Tied(self.own)

    linear, x = nn.Linear(4, 4), torch.randn(50, 4)
    vae = VAE.build([4], 2, Shares(linear), StandardNormal, partial(Gaussian, scale="fixed"), Diagonal)
    assert vae.decoder.weight is linear.weight
    svi = svi_of(vae)
    before = linear.weight.detach().clone()
    pyro.set_rng_seed(1)
    loss = Trace_ELBO().bound(vae.model, vae.guide, x).loss / len(x)
    (gradient,) = torch.autograd.grad(loss, [linear.weight])
    pyro.set_rng_seed(1)
    svi.step(x, None, None)
    torch.testing.assert_close(linear.weight.detach(), before - 0.1 * gradient)


@pytest.mark.parametrize("objective", [StickingTheLanding, DReG])
def test_dropout_in_the_guide_is_rejected_where_log_q_is_computed_apart_from_the_draw(objective):
    noisy = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8))
    vae, x = vae_of(noisy), torch.randn(20, 4)
    before = noisy[2].running_mean.clone()
    with pytest.raises(BadInput, match=f"of the guide at given latents is random, and objective={objective.name}"):
        dry_run(vae, objective(), x).check()
    torch.testing.assert_close(noisy[2].running_mean, before)
    dry_run(vae, Trace_ELBO(), x).check()
    dry_run(vae.eval(), objective(), x).check()


def test_dropout_in_the_decoder_is_rejected_with_a_missingness_model():
    x = torch.randn(20, 4)
    x[::3, 1] = torch.nan
    for dropout, mechanism in ((0.3, None), (0.0, SelfMasking)):
        plain = vae_of(nn.Linear(8, 4), dropout, missing=True, missingness=mechanism)
        dry_run(plain, Trace_ELBO(), x).check()
    vae = vae_of(nn.Linear(8, 4), 0.3, missing=True, missingness=SelfMasking)
    with pytest.raises(BadInput, match="of the model at given latents is random, and a missingness model needs it"):
        dry_run(vae, Trace_ELBO(), x).check()


def test_programs_may_change_with_the_epoch():
    vae, x = vae_of(nn.Linear(4, 4)), torch.randn(10, 4)
    assert dry_run(vae, Warmup(), x, State(step=30, epoch=3)).steps == [30]
    vae = pyro_vae.fit(x, latent_dim=2, objective=Warmup, likelihood="gaussian", max_epochs=7, verbose=False)
    assert len(vae.history) == 7
