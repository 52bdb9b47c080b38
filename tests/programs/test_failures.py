"""Programs that raise errors for some values of their latents: one line names the site."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae.errors import BadInput
from pyro_vae.errors.memory import OutOfMemory
from pyro_vae.marginal import Auto, Importance
from pyro_vae.programs.failures import in_one_line


def programs(likelihood, prior=None):
    """x ~ likelihood(z) with z ~ N(0, 1), and a guide N(x, 1)."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", prior or dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", likelihood(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    return model, guide


def rare(z):
    if (z > 4.5).any():
        raise ValueError("z is too large")
    return dist.Normal(z, 1.0).to_event(1)


FAILURES = {
    "scale": (
        lambda z: dist.Normal(z, z, validate_args=True).to_event(1),
        r"fails after site z \(Expected parameter scale .*constraint GreaterThan\(lower_bound=0.0\)\): .*clamp_min",
    ),
    "support": (
        lambda z: dist.Exponential(z.exp(), validate_args=True).to_event(1),
        r"fails at site x \(Expected value argument .*within the support .*\): it must run for all values",
    ),
    "matrix": (
        lambda z: dist.MultivariateNormal(z, torch.diag_embed(z)),
        r"fails after site z \(linalg.cholesky: .*not positive-definite.*\): it must run for all values",
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_errors_that_values_cause_name_the_site(failure):
    likelihood, message = FAILURES[failure]
    with pytest.raises(BadInput, match=message) as caught:
        Auto(100, compile=False)(*programs(likelihood), -torch.ones(3, 2))
    assert "tensor(" not in str(caught.value)


@pytest.mark.parametrize("estimator", [Auto(100, compile=False), Importance(5000)])
def test_so_do_errors_at_values_that_come_late(estimator):
    with pytest.raises(BadInput, match=r"fails after site z \(z is too large\)"):
        estimator(*programs(rare), torch.zeros(60, 2) + torch.arange(60).unsqueeze(-1) / 60 * 3)


def test_an_improper_prior_is_rejected():
    prior = dist.ImproperUniform(dist.constraints.real_vector, (), (2,))
    with pytest.raises(BadInput, match="the prior of site z is improper.*a wide Normal"):
        Auto(100)(*programs(lambda z: dist.Normal(z, 1.0).to_event(1), prior), torch.zeros(3, 2))


@pytest.mark.parametrize("error", [ValueError("of this library"), RuntimeError("of this library")])
def test_errors_outside_programs_keep_their_traceback(error):
    with pytest.raises(type(error), match="^of this library$"), in_one_line():
        raise error


def test_memory_is_not_blamed_on_values():
    with pytest.raises(OutOfMemory), in_one_line():
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nTrace Shapes:\n")
