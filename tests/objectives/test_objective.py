"""The contract of objectives."""

import pyro
import pytest
import torch

from pyro_vae.errors import BadInput
from pyro_vae.objectives import Bound, Objective, Trace_ELBO
from pyro_vae.training.trainer import Trainer


class Minimal(Objective):
    """Defines nothing but what a subclass must."""

    def bound(self, model, guide, *args, **kwargs):
        return Bound(*Trace_ELBO().bound(model, guide, *args, **kwargs))

    def for_validation(self, num_particles):
        return Trace_ELBO(num_particles)


def test_a_minimal_objective_works_in_pyros_svi(small_vae):
    x = torch.zeros(4, 6).double()
    svi = pyro.infer.SVI(small_vae.model, small_vae.guide, pyro.optim.Adam({"lr": 0.01}), loss=Minimal())
    before = [p.detach().clone() for p in small_vae.parameters()]
    svi.step(x)
    assert any(not torch.equal(p, old) for p, old in zip(small_vae.parameters(), before, strict=True))
    pyro.set_rng_seed(0)
    loss = svi.evaluate_loss(x)
    pyro.set_rng_seed(0)
    assert loss == pytest.approx(Trace_ELBO().loss(small_vae.model, small_vae.guide, x))


def test_a_missing_member_is_named():
    class Incomplete(Minimal):
        bound = Objective.bound

    with pytest.raises(TypeError, match="bound"):
        Incomplete()


def test_the_trainer_rejects_other_elbos(small_vae):
    with pytest.raises(BadInput, match="objective=Trace_ELBO does not define bound"):
        Trainer().check(small_vae, pyro.infer.Trace_ELBO(), torch.zeros(2, 6).double(), None)
