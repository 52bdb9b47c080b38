"""The trainer's SVI, against Pyro's with the same optimizer on the same noise."""

import copy
import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import graphs_of
from pyro.optim import PyroOptim
from torch import nn
from torch._dynamo import lookup_backend
from torch.nn.utils import parameters_to_vector

from pyro_vae.compilation import backend
from pyro_vae.errors import BadInput
from pyro_vae.objectives import IWAE, KLAnnealing, Trace_ELBO, TraceMeanField_ELBO, VariationalEM
from pyro_vae.objectives.elbo import surrogate_loss
from pyro_vae.training.optim import JointOptim
from pyro_vae.training.precision import BFloat16Products
from pyro_vae.training.svi import SVI, NotFinite

close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)  # double precision, the same operations
pytestmark = pytest.mark.filterwarnings("error:not compiled")
X = (torch.arange(30).reshape(5, 6) % 3 == 0).double()
ADAM = partial(torch.optim.Adam, lr=0.01)


@pytest.fixture
def by_aot_eager(monkeypatch):
    """All of inductor but the code generator."""
    monkeypatch.setattr(backend, "inductor", lambda graph, inputs, _: lookup_backend("aot_eager")(graph, inputs))


def run(vae, make, num_steps=5, x=X, clip_norm=10.0):
    """Losses and parameters of some steps, and the generator's state."""
    pyro.clear_param_store()
    vae, found = copy.deepcopy(vae), []
    svi = make(vae, JointOptim(ADAM, clip_norm=clip_norm))
    pyro.set_rng_seed(0)
    for _ in range(num_steps):
        loss = svi.step(x)
        loss = loss[0] if isinstance(loss, list) else loss
        found.append((float(loss), parameters_to_vector(vae.parameters()).detach().clone()))
    return found, torch.get_rng_state()


def pyros(objective):
    return lambda vae, optim: pyro.infer.SVI(vae.model, vae.guide, optim, objective)


def ours(objective, compiled=False):
    def make(vae, optim):
        svi = SVI(vae.model, vae.guide, optim, objective.differentiable_loss)
        if compiled:
            svi.compile(lambda: svi.dry_run(X))
            assert graphs_of(svi.gradients) == 1
        return svi

    return make


@pytest.mark.parametrize("objective", [Trace_ELBO(), TraceMeanField_ELBO(2), IWAE(3)], ids=lambda o: o.name)
def test_steps_are_pyros(small_vae, objective):
    close(run(small_vae, ours(objective)), run(small_vae, pyros(objective)))


@pytest.mark.slow
@pytest.mark.parametrize("objective", [TraceMeanField_ELBO(), IWAE(3)], ids=lambda o: o.name)
def test_compiled_steps_are_pyros(small_vae, objective, by_aot_eager):
    close(run(small_vae, ours(objective, compiled=True)), run(small_vae, pyros(objective)))


def test_pyros_own_elbo_and_optimizer(as_traced):
    """Parameters from `pyro.param`, an ELBO that is not of this library."""

    def model(x):
        scale = pyro.param("scale", torch.tensor(2.0).double(), constraint=dist.constraints.positive)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(()), 1.0))
            pyro.sample("x", dist.Normal(z[..., None], scale).expand([len(x), 6]).to_event(1), obs=x)

    def guide(x):
        w = pyro.param("w", torch.linspace(-1, 1, 6).double())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x @ w, 0.5))

    def parameters(make):
        pyro.clear_param_store()
        svi = make(pyro.optim.Adam({"lr": 0.01}))
        pyro.set_rng_seed(0)
        for _ in range(5):
            svi.step(X)
        return {name: p.detach().clone() for name, p in pyro.get_param_store().items()}

    elbo = pyro.infer.TraceMeanField_ELBO()

    def compiled(optim):
        svi = SVI(model, guide, optim, partial(surrogate_loss, elbo))
        svi.compile(lambda: svi.dry_run(X))
        return svi

    expected = parameters(lambda optim: pyro.infer.SVI(model, guide, optim, elbo))
    close(parameters(lambda optim: SVI(model, guide, optim, elbo.differentiable_loss)), expected)
    close(parameters(compiled), expected)


@pytest.mark.parametrize("compiled", [False, True])
def test_what_a_step_returns(small_vae, as_traced, compiled):
    objective = Trace_ELBO()

    def loss(model, guide, x):
        bound = objective.bound(model, guide, x)
        value = bound.loss / len(x)
        return value, torch.stack([value.detach(), bound.elbo, bound.log_likelihood])

    svi = SVI(small_vae.model, small_vae.guide, JointOptim(ADAM), loss)
    if compiled:
        svi.compile(lambda: svi.dry_run(X))
    steps = [svi.step(X) for _ in range(4)]
    for value, reported in steps:
        assert not value.requires_grad
        assert not reported.requires_grad
        close(reported[0], value)
        close(-reported[1] / 5, value)
    assert len({value.item() for value, _ in steps}) == 4


def test_evaluate_loss_is_pyros(small_vae):
    objective, losses = TraceMeanField_ELBO(), []
    for make in (pyros(objective), ours(objective)):
        pyro.set_rng_seed(0)
        losses.append(make(small_vae, JointOptim(ADAM)).evaluate_loss(X))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_gradients_from_elsewhere_are_not_followed(small_vae):
    """Not even in the first step, in which the param store has yet to learn of the parameters."""
    objective = VariationalEM(e_steps=2, m_steps=1)
    svi = SVI(small_vae.model, small_vae.guide, JointOptim(ADAM), objective.differentiable_loss)
    theta = [*small_vae.decoder.parameters(), *small_vae.likelihood.parameters()]
    before = [p.detach().clone() for p in theta]
    for p in small_vae.parameters():
        p.grad = torch.ones_like(p)
    svi.step(X)
    assert all(torch.equal(p, old) for p, old in zip(theta, before, strict=True))


@pytest.mark.parametrize("compiled", [False, True])
def test_parameters_without_a_gradient_stay(small_vae, as_traced, compiled):
    """Momentum does not move them either, nor gradients left over from before."""
    objective = VariationalEM(e_steps=2, m_steps=1)
    loss = lambda model, guide, x, variant: objective.differentiable_loss(model, guide, x)  # noqa: E731
    svi = SVI(small_vae.model, small_vae.guide, JointOptim(ADAM), loss)

    def dry_run():
        for step in (0, 2):
            svi.dry_run(X, objective.at_step(step, 0.0))

    if compiled:
        svi.compile(dry_run)
    theta = [*small_vae.decoder.parameters(), *small_vae.likelihood.parameters()]
    phi = [*small_vae.encoder.parameters(), *small_vae.posterior.parameters()]
    for step in range(9):
        before = [[p.detach().clone() for p in group] for group in (theta, phi)]
        svi.step(X, objective.at_step(step, 0.0))
        moved = [
            [not torch.equal(p, old) for p, old in zip(group, olds, strict=True)]
            for group, olds in zip((theta, phi), before, strict=True)
        ]
        e_step = step % 3 < 2
        assert any(moved[e_step])
        assert not any(moved[not e_step])
        assert all(p.grad is None for p in (theta if e_step else phi))
    assert not compiled or graphs_of(svi.gradients) == 2


def test_annealing_goes_on_after_compiling(small_vae, as_traced):
    results = []
    for compiled in (False, True):
        pyro.clear_param_store()
        vae, objective = copy.deepcopy(small_vae), KLAnnealing(num_epochs=4)
        svi = ours(objective, compiled)(vae, JointOptim(ADAM))
        pyro.set_rng_seed(0)
        for epoch in range(6):
            objective.at_step(0, epoch)
            loss = svi.step(X)[0]
        results.append((loss, parameters_to_vector(vae.parameters()).detach()))
    close(*results)


# Dry runs


@pytest.mark.parametrize("compiled", [False, True])
def test_a_dry_run_has_no_effect(small_vae, as_traced, compiled):
    svi = ours(TraceMeanField_ELBO())(small_vae, JointOptim(ADAM))
    if compiled:
        svi.compile(lambda: svi.dry_run(X))
    svi.step(X)
    parameters = list(small_vae.parameters())
    for p in parameters:
        p.grad = torch.rand_like(p)
    before = [p.detach().clone() for p in parameters], [p.grad.clone() for p in parameters], torch.get_rng_state()
    optim = copy.deepcopy(svi.optim.get_state())
    for x in (X, X[:2]):
        svi.dry_run(x)
    close((parameters, [p.grad for p in parameters], torch.get_rng_state()), before)
    close(svi.optim.get_state()["optimizer"]["state"], optim["optimizer"]["state"])


def test_a_dry_run_before_the_first_step_leaves_no_gradients(small_vae):
    svi = ours(TraceMeanField_ELBO())(small_vae, JointOptim(ADAM))
    before = torch.get_rng_state()
    svi.dry_run(X)
    assert all(p.grad is None for p in small_vae.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_dry_run_leaves_buffers_alone(small_vae):
    small_vae.encoder.append(nn.BatchNorm1d(16).double())
    svi = ours(TraceMeanField_ELBO())(small_vae, JointOptim(ADAM))
    svi.dry_run(X)
    assert small_vae.encoder[-1].num_batches_tracked == 0


def test_after_compiling_other_arguments_run_as_they_are(small_vae, as_traced):
    sizes = [5, 2, 5, 5, 2, 2, 2, 3, 5]
    results = []
    for compiled in (False, True):
        pyro.clear_param_store()
        vae = copy.deepcopy(small_vae)
        svi = ours(TraceMeanField_ELBO(), compiled)(vae, JointOptim(ADAM))
        pyro.set_rng_seed(0)
        results.append([svi.step(X[:n])[0] for n in sizes] + [parameters_to_vector(vae.parameters()).detach()])
        assert not compiled or graphs_of(svi.gradients) == 1
    close(*results)


# Gradients and what optimizers do with them in place


def shared(x):
    """Whose two parameters have gradients that autograd holds in one place."""
    loc = pyro.param("a", torch.zeros(6).double()) + pyro.param("b", torch.zeros(6).double())
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 0.1).to_event(1), obs=x)


def joined(x):
    """Whose gradients are parts of one another."""
    loc = pyro.param("a", torch.zeros(6).double())
    loc = torch.cat([pyro.param(name, torch.zeros(3).double()) for name in "bc"]) + loc
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 0.1).to_event(1), obs=x)


def summed(x):
    """Whose gradient is one number, expanded."""
    pyro.factor("f", -100 * pyro.param("a", torch.zeros(6).double()).sum())


@pytest.mark.parametrize("model", [shared, joined, summed])
def test_clipping_is_pyros(model):
    found = []
    for make in (pyro.infer.SVI, SVI):
        pyro.clear_param_store()
        loss = Trace_ELBO() if make is pyro.infer.SVI else Trace_ELBO().differentiable_loss
        svi = make(model, lambda x: None, JointOptim(partial(torch.optim.SGD, lr=1.0), clip_norm=1.0), loss)
        svi.step(X)
        found.append(dict(pyro.get_param_store().items()))
    close(found[1], found[0])


# Precision


@pytest.mark.parametrize("compiled", [False, True])
def test_bf16_mixed(small_vae, as_traced, compiled):
    vae, objective = small_vae.float(), TraceMeanField_ELBO()
    results = []
    for precision in ("bf16-mixed", "by hand", "float32"):
        pyro.clear_param_store()
        twin = copy.deepcopy(vae)

        def by_hand(*args):
            with BFloat16Products():
                return objective.differentiable_loss(*args)

        if precision == "by hand":
            pyro.set_rng_seed(0)
            loss = by_hand(twin.model, twin.guide, X.float())
            with BFloat16Products():
                loss.backward()
            results.append((loss.detach(), [p.grad for p in twin.parameters()]))
            continue
        optim = PyroOptim(torch.optim.SGD, {"lr": 0.0})
        svi = SVI(twin.model, twin.guide, optim, objective.differentiable_loss, precision)
        if compiled:
            svi.compile(lambda svi=svi: svi.dry_run(X.float()))
        pyro.set_rng_seed(0)
        (loss,) = svi.step(X.float())
        results.append((loss, [p.grad for p in twin.parameters()]))
    assert all(g.dtype == torch.float32 for _, gradients in results for g in gradients)
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=1e-6)
    assert results[0][0] != results[2][0]
    # 8 bits of mantissa a number
    torch.testing.assert_close(results[0][0], results[2][0], rtol=0.01, atol=0.01)
    torch.testing.assert_close(results[0][1], results[2][1], rtol=0.05, atol=0.1)


def test_refuses_other_precisions(small_vae):
    with pytest.raises(BadInput, match="precision=float16"):
        SVI(small_vae.model, small_vae.guide, JointOptim(ADAM), Trace_ELBO().differentiable_loss, "float16")


def test_a_gradient_that_is_not_finite_is_not_followed_where_it_is_looked_at():
    """The loss is finite: √p at p = 0."""
    for finite, expected in ((("loss",), math.nan), (("loss", "gradient"), 0.0)):
        pyro.clear_param_store()

        def loss(model, guide):
            return pyro.param("p", torch.tensor(0.0)).sqrt() * 0

        svi = SVI(None, None, JointOptim(ADAM), loss, finite=finite)
        if "gradient" in finite:
            with pytest.raises(NotFinite, match="gradient"):
                svi.step()
        else:
            svi.step()
        assert pyro.param("p").item() == pytest.approx(expected, nan_ok=True)


def test_a_skipped_step_changes_no_buffers():
    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running", torch.zeros(()))
            self.loc = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            pyro.module("guide", self)
            self.running += x.mean().detach()
            pyro.sample("z", dist.Normal(self.loc, 1.0))

    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0).expand([len(x)]).to_event(1), obs=x)

    guide = Guide()
    svi = SVI(model, guide, JointOptim(ADAM), Trace_ELBO().differentiable_loss, finite=["loss", "gradient"])
    svi.step(torch.ones(3))
    assert guide.running == 1
    with pyro.validation_enabled(False), pytest.raises(NotFinite):
        svi.step(torch.full((3,), torch.inf))
    assert guide.running == 1
