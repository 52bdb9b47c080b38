"""The compiled ELBOs in Pyro's own SVI, against Pyro's own ELBOs on the same noise, for programs of all kinds.

Numbers are float64; both sides do the same operations, of which the compiled side may sum some in another order.
The compiler is torch's without a code generator, where it matters; the last tests are of what users get, inductor.
"""

import copy
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import every, graphs_of
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO, autoguide
from pyro.nn import PyroModule, PyroParam, PyroSample
from pyro.optim import PyroOptim
from torch import nn
from torch.distributions import constraints

from pyro_vae.compilation.elbos import CompiledIWAE, CompiledTrace_ELBO, CompiledTraceMeanField_ELBO
from pyro_vae.guides import Diagonal
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.objectives import IWAE
from pyro_vae.priors import StandardNormal
from pyro_vae.vae import VAE

pytestmark = [pytest.mark.usefixtures("double"), pytest.mark.filterwarnings("error:not compiled")]
COMPILED = {Trace_ELBO: CompiledTrace_ELBO, TraceMeanField_ELBO: CompiledTraceMeanField_ELBO, IWAE: CompiledIWAE}
close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)


# Programs: each returns model, guide and arguments, anew


def normal(loc, scale=1.0):
    return dist.Normal(loc, scale).to_event(1)


def constrained():
    x = torch.randn(4)

    def model(x):
        scale = pyro.param("scale", torch.tensor(1.5), constraint=constraints.positive)
        weights = pyro.param("weights", torch.tensor([0.2, 0.3, 0.5]), constraint=constraints.simplex)
        L = pyro.param("L", torch.tensor([[1.0, 0], [0.3, 0.7]]), constraint=constraints.lower_cholesky)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(2), scale_tril=L))
            parts = dist.Normal(z[..., :1] * torch.arange(3.0) + z[..., 1:], scale)
            pyro.sample("x", dist.MixtureSameFamily(dist.Categorical(weights), parts), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor([0.3, -0.2]))
        L = pyro.param("L_q", torch.eye(2), constraint=constraints.lower_cholesky)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.MultivariateNormal(x[:, None] * loc, scale_tril=L))

    return model, guide, (x,)


def modules(extra=nn.Identity):
    encoder = nn.Sequential(nn.Linear(3, 4), extra(), nn.Softplus(), nn.Linear(4, 4))
    decoder = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 3))

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", normal(x.new_zeros(2)))
            pyro.sample("x", normal(decoder(z), 0.5), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(x), dim=-1):
            loc, log_scale = encoder(x).chunk(2, -1)
            pyro.sample("z", normal(loc, log_scale.exp()))

    return model, guide, (torch.randn(5, 3),)


def pyro_modules():
    class Regression(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[nn.Linear](2, 1)
            self.linear.weight = PyroSample(normal(torch.zeros(1, 2)).to_event(1))
            self.scale = PyroParam(torch.tensor(0.7), constraint=constraints.positive)

        def forward(self, x, y):
            loc = self.linear(x)[..., 0]
            with pyro.plate("data", len(x)):
                pyro.sample("y", dist.StudentT(4.0, loc, self.scale), obs=y)

    model = Regression()
    return model, autoguide.AutoDiagonalNormal(model), (torch.randn(6, 2), torch.randn(6))


def auto(make_guide):
    def model(x):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        p = pyro.sample("p", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(p[0] - p[1], rate), obs=x)

    return model, make_guide(model), (torch.randn(6),)


class BNN(PyroModule):
    """A Bayesian neural network as in Pyro's tutorials."""

    def __init__(self):
        super().__init__()
        self.hidden = PyroModule[nn.Linear](1, 3)
        self.hidden.weight = PyroSample(dist.Normal(0.0, 1.0).expand([3, 1]).to_event(2))
        self.hidden.bias = PyroSample(dist.Normal(0.0, 5.0).expand([3]).to_event(1))
        self.out = PyroModule[nn.Linear](3, 1)
        self.out.weight = PyroSample(lambda module: dist.Normal(0.0, torch.ones(1, 3)).to_event(2))

    def forward(self, x, y=None):
        loc = pyro.deterministic("loc", self.out(self.hidden(x).tanh())[..., 0])
        sigma = pyro.sample("sigma", dist.Gamma(0.5, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(loc, sigma), obs=y)
        return loc


def bnn(make_guide):
    model, x = BNN(), torch.linspace(-1, 1, 5)[:, None]
    return model, make_guide(model), (x, x[:, 0] ** 3 + 0.1)


def local_normals():
    def model(x):
        w = pyro.param("w", torch.tensor([0.3, -1.0]))
        with pyro.plate("columns", 2, dim=-1), pyro.plate("rows", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            pyro.sample("x", dist.Normal(w * z, 1.0), obs=x)

    return model, autoguide.AutoNormal(model), (torch.randn(3, 2),)


def subsampled():
    every = torch.randn(10)

    def model():
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(every), subsample_size=4) as index:
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("x", dist.Normal(z, pyro.param("scale", torch.tensor(0.5))), obs=every[index])

    def guide():
        pyro.sample("mu", dist.Normal(pyro.param("m", torch.tensor(0.1)), 0.5))
        with pyro.plate("data", len(every), subsample_size=4) as index:
            pyro.sample("z", dist.Normal(pyro.param("locs", torch.zeros(10))[index], 0.4))

    return model, guide, ()


def given_subsample():
    """Minibatches of local variables: the indices are an argument."""
    every = torch.randn(10)

    def model(index):
        with pyro.plate("data", len(every), subsample=index):
            z = pyro.sample("z", dist.Normal(0.0, pyro.param("s", torch.tensor(2.0))))
            pyro.sample("x", dist.Normal(z, 1.0), obs=every[index])

    def guide(index):
        with pyro.plate("data", len(every), subsample=index):
            locs = pyro.param("locs", torch.zeros(10), event_dim=0)
            pyro.sample("z", dist.Normal(locs, 0.5))

    return model, guide, (torch.tensor([7, 1, 4]),)


def nested_plates():
    def model(x):
        with pyro.plate("groups", x.shape[-1], dim=-1):
            mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
            with pyro.plate("data", x.shape[-2], dim=-2):
                z = pyro.sample("z", dist.Normal(mu, 1.0))
                pyro.sample("x", dist.Normal(z * pyro.param("w", torch.tensor(1.5)), 1.0), obs=x)

    def guide(x):
        a, b = pyro.param("a", torch.randn(x.shape[-1])), pyro.param("b", torch.tensor(0.4))
        with pyro.plate("groups", x.shape[-1], dim=-1):
            pyro.sample("mu", dist.Normal(a, 0.5))
            with pyro.plate("data", x.shape[-2], dim=-2):
                pyro.sample("z", dist.Normal(b * x, b.exp()))

    return model, guide, (torch.randn(4, 3),)


def auxiliary():
    def model(x):
        z = pyro.sample("z", dist.LogNormal(pyro.param("prior", torch.tensor(0.2)), 1.0))
        pyro.sample("x", dist.Gamma(z, 2.0).expand(x.shape).to_event(1), obs=x)

    def guide(x):
        u = pyro.sample("u", dist.Normal(pyro.param("m", torch.tensor(0.3)), 1.0), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Delta(u.exp(), -u))

    return model, guide, (torch.rand(3) + 0.5,)


def score_function():
    def model(x):
        w = pyro.param("w", torch.tensor([[1.0, -0.5], [0.2, 0.7]]))
        with pyro.plate("data", len(x), dim=-1):
            b = pyro.sample("b", dist.Bernoulli(0.3))
            z = pyro.sample("z", dist.Normal(b, 1.0))
            pyro.sample("x", normal(w[b.long()] * z[..., None]), obs=x)

    def guide(x):
        v = pyro.param("v", torch.tensor([0.4, -0.3]))
        with pyro.plate("data", len(x), dim=-1):
            b = pyro.sample("b", dist.Bernoulli(logits=x @ v))
            pyro.sample("z", dist.Normal(b * v[0], 0.8))

    return model, guide, (torch.randn(5, 2),)


def masked():
    def model(x, seen):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).mask(seen))
            with poutine.mask(mask=seen):
                pyro.sample("x", dist.Normal(pyro.param("w", torch.tensor(0.8)) * z, 1.0), obs=x)

    def guide(x, seen):
        with pyro.plate("data", len(x)), poutine.mask(mask=seen):
            pyro.sample("z", dist.Normal(pyro.param("c", torch.tensor(0.5)) * x, 0.6))

    return model, guide, (torch.randn(4), torch.tensor([True, False, True, True]))


def time_series():
    def model(x):
        z, a = x.new_zeros(()), pyro.param("a", torch.tensor(0.9))
        for t in pyro.markov(range(len(x))):
            z = pyro.sample(f"z{t}", dist.Normal(a * z, 1.0))
            pyro.deterministic(f"loc{t}", 2 * z)
            pyro.sample(f"x{t}", dist.Normal(z, 1.0), obs=x[t])
        pyro.factor("regularizer", -a.square())

    def guide(x):
        for t in range(len(x)):
            pyro.sample(f"z{t}", dist.Normal(pyro.param(f"m{t}", x[t].clone()), 0.5))

    return model, guide, (torch.randn(2),)


def normalizing_flow():
    """Pyro's transforms keep what they computed last."""

    def model(x):
        z = pyro.sample("z", normal(torch.zeros(2)))
        pyro.sample("x", normal(z), obs=x)

    return model, autoguide.AutoIAFNormal(model, hidden_dim=[4]), (torch.randn(2),)


class Recorder(PyroOptim):
    """Gradient descent that keeps the gradients."""

    def __init__(self):
        super().__init__(torch.optim.SGD, {"lr": 0.01})
        self.gradients = []

    def __call__(self, params, *args, **kwargs):
        store, params = pyro.get_param_store(), list(params)
        self.gradients.append({store.param_name(p): p.grad if p.grad is None else p.grad.clone() for p in params})
        super().__call__(params, *args, **kwargs)


def steps(program, elbo, change=lambda args, step: args, num_steps=4):
    """Losses, gradients, parameters and the generator's state of some steps of Pyro's SVI."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model, guide, args = program()
    optim = Recorder()
    svi = SVI(model, guide, optim, elbo)
    losses = []
    for step in range(num_steps):
        now = change(args, step)
        losses.append(svi.step(**now) if isinstance(now, dict) else svi.step(*now))
    parameters = {name: p.detach().clone() for name, p in pyro.get_param_store().named_parameters()}
    return losses, optim.gradients, parameters, torch.get_rng_state()


def check_steps(program, elbo=Trace_ELBO, num_graphs=1, backend="eager", change=lambda args, step: args, num_steps=5):
    compiled = COMPILED[elbo.func if isinstance(elbo, partial) else elbo]
    compiled = compiled(backend=backend, **(elbo.keywords if isinstance(elbo, partial) else {}))
    expected = steps(program, elbo(), change, num_steps)
    assert len(set(expected[0])) == num_steps  # noise, and learning
    close(steps(program, compiled, change, num_steps), expected)
    assert graphs_of(compiled._loss_and_gradients) == num_graphs


PROGRAMS = {
    program.__name__: program
    for program in (
        constrained,
        modules,
        pyro_modules,
        local_normals,
        subsampled,
        given_subsample,
        nested_plates,
        auxiliary,
        score_function,
        masked,
        time_series,
        normalizing_flow,
    )
} | {
    name: partial(auto, getattr(autoguide, name))
    for name in ("AutoNormal", "AutoMultivariateNormal", "AutoLowRankMultivariateNormal")
}
AUTOGUIDES = {
    "AutoNormal": autoguide.AutoNormal,
    "AutoDelta": autoguide.AutoDelta,
    "AutoDiagonalNormal": autoguide.AutoDiagonalNormal,
    "AutoMultivariateNormal": autoguide.AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": partial(autoguide.AutoLowRankMultivariateNormal, rank=2),
    "AutoIAFNormal": partial(autoguide.AutoIAFNormal, hidden_dim=[12]),
}


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize("name", every(2, PROGRAMS))
def test_steps_are_those_of_trace_elbo(name):
    check_steps(PROGRAMS[name], Trace_ELBO)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["score_function"])
def test_steps_of_compiled_graphs(name):
    check_steps(PROGRAMS[name], Trace_ELBO, backend="aot_eager")


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize("name", ["modules", "local_normals", "masked"])
def test_steps_are_those_of_trace_mean_field_elbo(name):
    check_steps(PROGRAMS[name], TraceMeanField_ELBO)


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize(("name", "elbo", "vectorize"), [
    ("score_function", Trace_ELBO, True), ("score_function", Trace_ELBO, False),
    ("nested_plates", TraceMeanField_ELBO, True), ("local_normals", TraceMeanField_ELBO, False),
])  # fmt: skip
def test_steps_of_several_particles(name, elbo, vectorize):
    check_steps(PROGRAMS[name], partial(elbo, num_particles=3, vectorize_particles=vectorize))


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize("name", every(2, AUTOGUIDES))
def test_steps_of_bayesian_neural_networks(name):
    check_steps(partial(bnn, AUTOGUIDES[name]), Trace_ELBO)


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize("name", every(6, AUTOGUIDES))
def test_steps_of_bayesian_neural_networks_mean_field(name):
    check_steps(partial(bnn, AUTOGUIDES[name]), TraceMeanField_ELBO)


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize(("name", "elbo"), every(4, [
    ("AutoNormal", Trace_ELBO), ("AutoNormal", TraceMeanField_ELBO),
    ("AutoMultivariateNormal", Trace_ELBO), ("AutoIAFNormal", Trace_ELBO),
], several=True))  # fmt: skip
def test_steps_of_bayesian_neural_networks_and_several_particles(name, elbo):
    check_steps(partial(bnn, AUTOGUIDES[name]), partial(elbo, num_particles=2))


@pytest.mark.usefixtures("as_traced")
def test_steps_are_those_of_iwae():
    check_steps(modules, partial(IWAE, num_particles=4))


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_a_weight_that_is_a_tensor_changes_without_a_new_graph(elbo):
    def program():
        model, guide, (x,) = modules()

        def scaled(fn):
            def run(x, beta):
                with poutine.scale(scale=beta):
                    fn(x)

            return run

        return scaled(model), scaled(guide), (x, torch.tensor(0.0))

    check_steps(program, elbo, change=lambda args, i: (args[0], torch.tensor(0.1 + 0.2 * i)), num_steps=6)


def test_a_weight_that_is_a_global_number_is_refused_with_the_line():
    """And all steps are Pyro's: as it is, traced, compared twice, as it is."""

    def program():
        model, guide, args = modules()
        now = {"weight": 0.0}

        def scaled(x):
            now["weight"] += 0.1
            with poutine.scale(scale=now["weight"]):
                model(x)

        return scaled, guide, args

    with pytest.warns(UserWarning, match=rf"not compiled: {__file__}:\d+: aten.mul.Tensor gets 0.4, and got 0.2"):
        check_steps(program, num_graphs=0)


@pytest.mark.usefixtures("as_traced")
def test_each_shape_has_a_graph_of_its_own():
    sizes = [5, 5, 5, 2, 2, 2, 5, 2, 5, 2]  # 2: a last, short batch
    check_steps(modules, TraceMeanField_ELBO, 2, change=lambda args, i: (args[0][: sizes[i]],), num_steps=10)


@pytest.mark.usefixtures("as_traced")
def test_other_data_of_the_same_shape():
    check_steps(modules, change=lambda args, i: (args[0].roll(i, 0) + i,))


@pytest.mark.usefixtures("as_traced")
def test_keyword_arguments_and_nested_ones():
    def program():
        model, guide, (x,) = modules()

        def nested(fn):
            return lambda x, more: fn(x + more["shift"][0])

        return nested(model), nested(guide), {"x": x, "more": {"shift": [torch.ones(3)]}}

    check_steps(program, change=lambda args, i: args | {"more": {"shift": [torch.full((3,), 1.0 + i)]}})


@pytest.mark.usefixtures("as_traced")
def test_numbers_that_change_make_a_graph_each():
    def program():
        model, guide, args = modules()
        return lambda x, k: poutine.scale(model, k)(x), lambda x, k: guide(x), args

    check_steps(program, num_graphs=2, change=lambda args, i: (*args, 1.0 + i % 2), num_steps=8)


def test_dropout_and_running_statistics_of_batch_norm():
    """The backend takes care of what is updated in place, as inductor does."""
    norms = []

    def program():
        norms.append(nn.BatchNorm1d(4))
        return modules(lambda: nn.Sequential(norms[-1], nn.Dropout(0.4)))

    check_steps(program, TraceMeanField_ELBO, backend="aot_eager", change=lambda args, i: (args[0] * (i + 1),))
    expected, compiled = norms
    assert compiled.num_batches_tracked == 5
    assert (compiled.running_var - 1).abs().max() > 0.1
    close(dict(compiled.named_buffers()), dict(expected.named_buffers()))


# Random numbers


@pytest.mark.usefixtures("as_traced")
def test_noise_is_new_in_each_call_and_follows_the_seed():
    model, guide, (x,) = modules()
    elbo = CompiledTrace_ELBO(backend="eager")
    losses = [elbo.loss_and_grads(model, guide, x) for _ in range(6)]
    assert len(set(losses)) == 6
    for _ in range(2):
        pyro.set_rng_seed(0)
        again = [elbo.loss_and_grads(model, guide, x) for _ in range(3)]
        assert len(set(again)) == 3
        repeated, losses = losses[:3] == again, again
    assert repeated


# Parameters


def held(holder):
    """The program `modules` whose networks can be exchanged."""

    def model(x):
        decoder = pyro.module("decoder", holder["decoder"])
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", normal(x.new_zeros(2)))
            pyro.sample("x", normal(decoder(z), pyro.param("scale", lambda: torch.tensor(holder["scale"]))), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", normal(pyro.param("loc", torch.zeros(2)) + x[:, :2]))

    return model, guide


def exchange(elbo, how):
    """Losses and gradients before and after the parameters are exchanged; those of the exchanged ones too."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    store, holder, old, found = pyro.get_param_store(), {"decoder": nn.Linear(2, 3), "scale": 1.0}, {}, []
    model, guide = held(holder)
    x = torch.randn(4, 3)
    for phase in range(2):
        for _ in range(4):
            loss = elbo.loss_and_grads(model, guide, x)
            now = dict(store.named_parameters())
            assert set(now) == {"scale", "loc", "decoder$$$weight", "decoder$$$bias"}
            found.append((loss, *({name: p.grad for name, p in params.items()} for params in (now, old))))
            for p in (*now.values(), *old.values()):
                p.grad = None
        old = now
        how(holder, store, phase)
    return found


def clear(holder, store, phase):
    holder["scale"] = 2.0 + phase
    pyro.clear_param_store()


def fresh_model(holder, store, phase):
    holder["decoder"] = nn.Linear(2, 3)
    clear(holder, store, phase)


def saved_state(holder, store, phase):
    state = copy.deepcopy(store.get_state())
    for value in state["params"].values():
        value.data += 0.5
    pyro.clear_param_store()
    store.set_state(state)


def assigned(holder, store, phase):
    store["scale"] = torch.tensor(3.0 + phase)
    store["loc"] = torch.ones(2)


def in_place(holder, store, phase):
    holder["decoder"].load_state_dict({"weight": torch.full((3, 2), 0.1 + phase), "bias": torch.ones(3)})
    with torch.no_grad():
        store["scale"].mul_(2.0)


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize("how", [clear, fresh_model, saved_state, assigned, in_place])
def test_exchanged_parameters_are_seen(how):
    close(exchange(CompiledTrace_ELBO(backend="eager"), how), exchange(Trace_ELBO(), how))


@pytest.mark.usefixtures("as_traced")
def test_a_scope_of_the_param_store_has_parameters_of_its_own():
    model, guide = held({"decoder": nn.Linear(2, 3), "scale": 1.0})
    elbo, x, store = CompiledTrace_ELBO(backend="eager"), torch.randn(4, 3), pyro.get_param_store()

    def scales():
        found = []
        for elbo_now in (elbo, elbo, elbo, Trace_ELBO()):
            store["scale"].unconstrained().grad = None
            pyro.set_rng_seed(1)
            elbo_now.loss_and_grads(model, guide, x)
            found.append(store["scale"].unconstrained().grad.clone())
        return found

    Trace_ELBO().loss_and_grads(model, guide, x)
    outer = scales()
    with store.scope():
        Trace_ELBO().loss_and_grads(model, guide, x)
        store["scale"] = torch.tensor(2.0)
        inner = scales()
    assert not torch.allclose(outer[0], inner[0])
    for found in (outer, inner, scales()):
        close(found, [found[-1]] * 4)


@pytest.mark.usefixtures("as_traced")
def test_gradients_add_up_until_they_are_dropped():
    model, guide, (x,) = modules()

    def total(elbo, dropped):
        pyro.set_rng_seed(0)
        for call in range(4):
            elbo.loss_and_grads(model, guide, x)
            now = dict(pyro.get_param_store().named_parameters()).values()
            gradients = [p.grad.clone() for p in now]
            if call in dropped:
                for p in now:
                    p.grad = None
        return gradients

    every = total(Trace_ELBO(), dropped=[3])
    compiled = CompiledTrace_ELBO(backend="eager")
    for _ in range(2):
        close(total(compiled, dropped=[3]), every)


@pytest.mark.usefixtures("as_traced")
def test_a_program_without_parameters():
    def program():
        def model(x):
            pyro.sample("x", normal(pyro.sample("z", normal(torch.zeros(2)))), obs=x)

        def guide(x):
            pyro.sample("z", normal(x))

        return model, guide, (torch.randn(2),)

    check_steps(program)


# Losses without steps


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, partial(IWAE, 4)])
def test_evaluate_loss(elbo):
    compiled = COMPILED[IWAE](4, backend="eager") if isinstance(elbo, partial) else COMPILED[elbo](backend="eager")

    def losses(elbo):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        model, guide, (x,) = modules()
        svi = SVI(model, guide, Recorder(), elbo)
        found = [svi.evaluate_loss(x) for _ in range(4)]
        assert all(p.grad is None for _, p in pyro.get_param_store().named_parameters())
        return found, torch.get_rng_state()

    close(losses(compiled), losses(elbo()))
    assert graphs_of(compiled._loss) == 1


class Program(nn.Module):
    """A Pyro program as a torch module, as `ELBO.__call__` wants it."""

    def __init__(self, network, fn):
        super().__init__()
        self.network = network
        self.fn = fn

    def forward(self, x):
        self.fn(x)


def as_modules():
    encoder, decoder = nn.Linear(3, 2), nn.Linear(2, 3)

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", normal(x.new_zeros(2)))
            pyro.sample("x", normal(decoder(z)), obs=x)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", normal(encoder(x), 0.5))

    return Program(decoder, model), Program(encoder, guide), (torch.randn(4, 3),)


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO, partial(IWAE, 4)])
def test_backward_from_the_loss_of_an_elbo_module(elbo):
    """Whose parameters are in no param store."""
    compiled = COMPILED[IWAE](4, backend="eager") if isinstance(elbo, partial) else COMPILED[elbo](backend="eager")

    def run(elbo):
        pyro.set_rng_seed(0)
        model, guide, (x,) = as_modules()
        module, found = elbo(model, guide), []
        optim = torch.optim.SGD(module.parameters(), lr=1e-3)
        for factor in (1.0, 2.5, -1.0, 3.0, 0.5):
            optim.zero_grad()
            loss = module(x)
            (factor * loss).backward()
            found.append((loss.item(), [p.grad.clone() for p in module.parameters()]))
            assert len(found[-1][1]) == 4
            optim.step()
        return found

    close(run(compiled), run(elbo()))


@pytest.mark.usefixtures("as_traced")
def test_backward_to_some_of_the_parameters():
    model, guide, (x,) = as_modules()
    weight, elbo = model.network.weight, CompiledTrace_ELBO(backend="eager")
    for call in range(4):
        pyro.set_rng_seed(call)
        (gradient,) = torch.autograd.grad(elbo.differentiable_loss(model, guide, x), [weight])
        pyro.set_rng_seed(call)
        close(gradient, *torch.autograd.grad(Trace_ELBO().differentiable_loss(model, guide, x), [weight]))


@pytest.mark.usefixtures("as_traced")
def test_parameters_local_to_their_modules():
    def run(elbo):
        pyro.set_rng_seed(0)
        model, guide, args = pyro_modules()
        module, found = elbo(model, guide), []
        module(*args)  # which makes the guide's parameters
        optim = torch.optim.SGD(module.parameters(), lr=1e-3)
        for _ in range(4):
            optim.zero_grad()
            loss = module(*args)
            loss.backward()
            found.append((loss.item(), {name: p.grad for name, p in module.named_parameters()}))
            optim.step()
        assert not dict(pyro.get_param_store().named_parameters())
        return found

    with pyro.settings.context(module_local_params=True):
        close(run(CompiledTrace_ELBO(backend="eager")), run(Trace_ELBO()))


def test_data_that_lie_otherwise_in_memory():
    def program():
        def model(x):
            loc = pyro.param("loc", torch.zeros(6))
            pyro.sample("x", normal(loc).expand([len(x)]).to_event(1), obs=x.reshape(len(x), -1))

        return model, lambda x: None, (torch.randn(4, 2, 3), torch.randn(4, 3, 2).mT)

    check_steps(program, change=lambda args, i: args[i // 4 : i // 4 + 1], num_steps=8, num_graphs=2)


@pytest.mark.usefixtures("as_traced")
def test_the_report_of_the_last_particles():
    model, guide, (x,) = modules()
    elbo, reports = CompiledIWAE(4, backend="eager"), set()
    for _ in range(5):
        reports.add(elbo.bound(model, guide, x).log_likelihood.item())
    assert len(reports) == 5


# Inductor


@pytest.mark.slow
@pytest.mark.parametrize("name", ["AutoNormal", "AutoMultivariateNormal"])
def test_bayesian_neural_networks_of_users(name):
    check_steps(partial(bnn, AUTOGUIDES[name]), backend="inductor")


@pytest.mark.parametrize(("elbo", "expected"), [
    (CompiledTraceMeanField_ELBO(), TraceMeanField_ELBO()),
    pytest.param(CompiledIWAE(5), IWAE(5), marks=pytest.mark.slow),
], ids=["mean_field", "iwae"])  # fmt: skip
def test_what_users_get(elbo, expected):
    """Gradients of the same noise differ by what float32 rounds off."""
    torch.set_default_dtype(torch.float32)
    vae = VAE.build([6], 2, MLP([]), StandardNormal, Bernoulli, Diagonal)
    x, parameters = (torch.arange(30).reshape(5, 6) % 3 == 0).float(), list(vae.parameters())
    for call in range(6):
        found = []
        for one in (expected, elbo):
            pyro.set_rng_seed(call)
            for p in parameters:
                p.grad = None
            loss = one.loss_and_grads(vae.model, vae.guide, x)
            found.append((loss, [p.grad for p in parameters], torch.get_rng_state()))
        torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)
    assert graphs_of(elbo._loss_and_gradients) == 1
