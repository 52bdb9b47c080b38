"""What is compiled is what it was: results, gradients, noise; what cannot be runs as it is, with a word about it.

Programs are float64, and both sides do the same operations. The compiler is torch's without a code generator, where
it matters; for inductor see `test_compiled_elbos.py`.
"""

import copy
import inspect
import os
import random
import re
import warnings
from contextlib import contextmanager
from functools import partial
from itertools import count

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import COLUMNS, graphs_of
from hydra.utils import instantiate
from omegaconf import OmegaConf
from pyro.infer import Trace_ELBO
from torch import nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from pyro_vae.compilation.compiled import TRACEABLE, Compiled, _is_traceable, compiled
from pyro_vae.compilation.elbos import CompiledTrace_ELBO
from pyro_vae.compilation.gradients import with_gradients
from pyro_vae.guides import Diagonal
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.marginal.prior import prior_of
from pyro_vae.networks import MLP
from pyro_vae.priors import StandardNormal
from pyro_vae.programs.density import Latents, density_and_grad
from pyro_vae.runs.config import CONFIG_DIR
from pyro_vae.vae import VAE

pytestmark = pytest.mark.usefixtures("double")
close = partial(torch.testing.assert_close, rtol=1e-10, atol=1e-12)  # sums in another order, at most


@contextmanager
def no_fallback():
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "not compiled")
        yield


# Functions of tensors


class Counted:
    """A function, and how often Python ran it."""

    def __init__(self, fn):
        self.fn = fn
        self.calls = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        return self.fn(*args, **kwargs)


SIGNATURES = {
    "shape": [(torch.ones(3),), (torch.ones(4),), (torch.ones(3, 1),)],
    "type": [(torch.ones(3).double(),), (torch.ones(3),), (torch.ones(3).int(),)],
    "number": [(torch.ones(3), 2), (torch.ones(3), 2.0), (torch.ones(3), 3), (torch.ones(3), True)],
    "structure": [(torch.ones(3), None), (torch.ones(3), [1.0]), (torch.ones(3), (1.0,)), (torch.ones(3), {"a": 1.0})],
    "tensors within": [(torch.ones(3), {"a": [torch.ones(2)]}), (torch.ones(3), {"a": [torch.ones(1)]})],
    "text": [(torch.ones(3), "a"), (torch.ones(3), "b")],
    "a dozen": [(torch.ones(3), k) for k in range(12)],  # more than torch compiles of one function
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_python_runs_twice_for_each_signature(name):
    fn = Counted(
        lambda x, more=0: {"scaled": x * (more if isinstance(more, int) else 2), "more": [str(more), (x + 1,)]}
    )
    fast = Compiled(fn, "eager")
    with no_fallback():
        for call in range(4):
            for x, *more in SIGNATURES[name]:
                result, expected = fast(x + call, *more), fn.fn(x + call, *more)
                close([result["scaled"], *result["more"][1]], [expected["scaled"], *expected["more"][1]])
                assert result["more"][0] == expected["more"][0]
    assert graphs_of(fast) == len(SIGNATURES[name])
    assert fn.calls == 2 * len(SIGNATURES[name])


def test_results_may_be_none(as_traced):
    fast = Compiled(lambda x: (x + 1, None))
    for _ in range(4):
        assert fast(torch.zeros(1))[1] is None


def test_keywords_are_part_of_the_signature(as_traced):
    fn = Counted(lambda x, *, plus: x + plus)
    fast = Compiled(fn)
    for _ in range(4):
        assert fast(torch.zeros(1), plus=1) == 1
        assert fast(x=torch.zeros(1), plus=torch.tensor(2.0)) == 2
    assert (fn.calls, graphs_of(fast)) == (4, 2)


def test_what_is_changed_in_place_counts(as_traced):
    outside, module, kept = torch.ones(2), nn.BatchNorm1d(2), []
    fast = Compiled(lambda x: (module(x * outside).sum(), outside, module.running_mean))
    for _ in range(5):
        with torch.no_grad():
            outside.mul_(2)
            module.bias.add_(1)
            twin = copy.deepcopy(module)
            x = torch.randn(3, 2)
            total, same, mean = fast(x)
            close(total, twin(x * outside).sum())
        close(module.running_mean, twin.running_mean)
        assert same is outside or torch.equal(same, outside)
        close(mean, module.running_mean)
        kept.append(total)
    assert len({value.item() for value in kept}) == 5  # results are no one's memory but the caller's


def test_training_mode_is_part_of_the_signature(as_traced):
    module = nn.Dropout(0.5)
    fast, x = Compiled(lambda module, x: module(x)), torch.ones(100)
    with no_fallback():
        for _ in range(4):
            assert (fast(module.train(), x) == 0).any()
            assert (fast(module.eval(), x) == 1).all()
    assert graphs_of(fast) == 2


def test_takes_no_new_signatures_if_told_so(as_traced):
    fn = Counted(lambda x: x + 1)
    fast = Compiled(fn)
    for _ in range(3):
        fast(torch.ones(2))
    fast.takes_new = False
    for call in range(1, 6):
        assert fast(torch.ones(3)).sum() == 6
        assert fn.calls == 2 + call
        assert fast(torch.ones(2)).sum() == 4
        assert fn.calls == 2 + call
    assert graphs_of(fast) == 1


def test_numbers_that_change_do_not_fill_the_memory(as_traced, monkeypatch):
    monkeypatch.setattr("pyro_vae.compilation.compiled.MAX_SIGNATURES", 3)
    fast, x = Compiled(lambda x, weight: weight * x), torch.ones(2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for weight in range(6):
            for _ in range(3):
                assert fast(x, float(weight)).sum() == 2 * weight
    assert graphs_of(fast) == 3
    assert ["3 signatures" in str(warning.message) for warning in caught] == [True]
    fast(x, 2.0)
    assert (graphs_of(fast), len(fast._graphs)) == (3, 3)


@pytest.fixture
def slow(monkeypatch):
    """Each call takes a second, tracing 1.5 s, and compiling 15, and 4 a second time."""
    clock = count()
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    for name, seconds in (("TRACE_SECONDS", 1.5), ("COMPILE_SECONDS", 15.0), ("COMPILE_NEXT_SECONDS", 4.0)):
        monkeypatch.setattr(f"pyro_vae.compilation.compiled.{name}", seconds)
    monkeypatch.setattr("pyro_vae.compilation.compiled.has_compiled", lambda: False)
    monkeypatch.setattr("pyro_vae.compilation.compiled.TRACEABLE", {*TRACEABLE, __name__})


@pytest.mark.parametrize(
    ("setting", "has_compiled", "eager", "traced"),
    [(False, False, 30, 0), (True, False, 1, 1), ("auto", False, 2, 13), ("auto", True, 2, 2)],
)
def test_traces_and_compiles_once_that_is_paid_for(as_traced, slow, monkeypatch, setting, has_compiled, eager, traced):
    monkeypatch.setattr("pyro_vae.compilation.compiled.has_compiled", lambda: has_compiled)
    fn = Counted(lambda x: x + 1)
    fast = compiled(fn, setting)
    for call in range(1, 31):
        assert fast(torch.ones(2)).sum() == 4
        assert fn.calls == (call if setting is False else min(call, eager + 1))
        assert setting is False or graphs_of(fast) == (call > eager + traced)


def test_own_code_is_not_traced_before_it_is_compiled(as_traced, slow, monkeypatch):
    """It may depend on what a trace would miss."""
    monkeypatch.setattr("pyro_vae.compilation.compiled.TRACEABLE", TRACEABLE)
    fn = Counted(lambda x: x + 1)
    fast = compiled(fn, "auto")
    for _ in range(10):
        fast(torch.ones(2))
    assert fn.calls == 10


def test_which_code_is_own():
    class Mine(nn.Linear):
        pass

    vae = VAE.build([3], 2, MLP([4]), StandardNormal, Bernoulli, Diagonal)
    known = [
        vae.model,
        prior_of(vae.model),
        density_and_grad,
        None,
        2,
        torch.ones(2),
        Latents.of(vae.model, torch.ones(2, 3)),
    ]
    assert all(map(_is_traceable, known))
    hooked = nn.Sequential(nn.Linear(2, 2))
    hooked[0].register_forward_hook(lambda *_: None)
    own = [
        lambda x: x,
        Mine(2, 2),
        nn.Sequential(Mine(2, 2)).forward,
        hooked,
        partial(torch.add, Mine(2, 2)),
        Counted(abs),
    ]
    assert not any(map(_is_traceable, own))


def test_warns_of_what_cannot_be_traced_when_it_would_be_compiled(as_traced, slow):
    fast = compiled(lambda x: x + 1 if x.sum() > 0 else x - 1, "auto")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for call in range(1, 31):
            sign = (-1) ** call
            assert fast(torch.full((2,), sign)).sum() == 4 * sign
            assert len(caught) == (call > 16)  # the third call, which tried to trace, is not counted
    assert "the program uses the value of a tensor" in str(caught[0].message)


SHAPES_OF_VALUES = {
    "mask": lambda x: x[x > 0].sum(),
    "nonzero": lambda x: x.nonzero().sum(),
    "unique": lambda x: x.unique().sum(),
    "masked_select": lambda x: x.masked_select(x > 0).exp().sum(),
}
VALUES = {
    "numpy": lambda x: x + float(x.detach().numpy().sum()),
    "asarray": lambda x: x + float(np.asarray(x).sum()),
    "tolist": lambda x: x + sum(x.tolist()),
}


@pytest.mark.parametrize("name", [*SHAPES_OF_VALUES, *VALUES])
def test_values_are_not_frozen(as_traced, name):
    fn = {**SHAPES_OF_VALUES, **VALUES}[name]
    fast = Compiled(fn)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            x = torch.randn(6)
            close(fast(x), fn(x))
    assert re.search("not compiled: .* (depends on|reads) the values of a tensor", str(caught[0].message))
    assert (len(caught), graphs_of(fast)) == (1, 0)


def test_indices_and_assignments_by_masks_are_compiled(as_traced):
    mask = torch.tensor([True, False, False, True, False, False])

    def fn(x):
        y = x.clone()
        y[x > 0] = 1.0
        return y[torch.tensor([0, 2])] + y[..., None][:2, 0] + y[mask]

    fast = Compiled(fn)
    with no_fallback():
        for _ in range(5):
            x = torch.randn(6)
            close(fast(x), fn(x))
    assert graphs_of(fast) == 1


def test_a_graph_that_fails_uses_up_no_noise(as_traced, monkeypatch):
    def failing(graph, *_):
        def run(*tensors):
            graph(*tensors)
            raise RuntimeError("no memory")

        return run

    monkeypatch.setattr("pyro_vae.compilation.backend.inductor", failing)
    fast = Compiled(lambda x: x + torch.randn(2))
    torch.manual_seed(0)
    expected = [torch.randn(2) for _ in range(4)]
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="no memory"):
        close([fast(torch.zeros(2)) for _ in range(4)], expected)


@pytest.mark.parametrize("always", [True, False])
def test_gradients_of_an_argument(as_traced, always):
    fast = Compiled(with_gradients(lambda x: x.square().sum()))
    for call in range(5):
        x = torch.randn(3, requires_grad=always or call > 2)
        _, parameters, gradients = fast(x)
        assert [p is x for p in parameters] == [True] * x.requires_grad
        close(gradients, [2 * x.detach()] * x.requires_grad)


def test_parameters_that_are_frozen_later(as_traced):
    module, x = nn.Linear(2, 1), torch.randn(3, 2)
    fast = Compiled(with_gradients(lambda x: module(x).sum()))
    for call in range(5):
        module.weight.requires_grad_(call < 3)
        assert len(fast(x)[1]) == (2 if call < 3 else 1)


def test_arguments_without_hash(as_traced):
    fast, some = Compiled(lambda x, some: x * len(some)), {1}
    for call in range(5):
        some.add(call)
        assert fast(torch.tensor(1.0), some) == len(some)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_arguments_that_lie_otherwise_in_memory(backend):
    fast = Compiled(lambda x: x.reshape(4, 6).sum(0), backend)
    for call in range(5):
        x = torch.randn(4, 2, 3) if call < 3 else torch.randn(4, 3, 2).mT
        close(fast(x), x.reshape(4, 6).sum(0))


ALIASED = "a tensor that is there twice when traced, as two arguments or outside as well, is one input ever after"


def test_arguments_that_were_one_tensor(as_traced):
    """As in an autoencoder's call with its input as its target."""
    fast, x, y = Compiled(lambda x, y: (x - 2 * y).sum()), torch.ones(2), torch.full((2,), 3.0)
    for args in ((x, x), (x, x), (x, x), (x, y), (y, x)):
        assert fast(*args) == (args[0] - 2 * args[1]).sum()


@pytest.mark.parametrize("trained", [True, False])
def test_an_argument_that_was_found_outside_as_well(as_traced, trained):
    outside, other = torch.ones(2, requires_grad=trained), torch.full((2,), 3.0, requires_grad=trained)
    fast = Compiled(with_gradients(lambda x: (x * outside).sum()))
    for x in (outside, outside, outside, other, outside):
        (value,), parameters, _ = fast(x)
        assert value == (x * outside).sum()
        assert {id(p) for p in parameters} == ({id(x), id(outside)} if trained else set())


def test_parameters_of_another_type(as_traced):
    module, x = nn.Linear(2, 1), torch.ones(3, 2)
    fast = Compiled(with_gradients(lambda x: module(x.to(module.weight.dtype)).sum()))
    for call in range(5):
        module.to(torch.float32 if call < 3 else torch.float64)
        _, parameters, gradients = fast(x)
        assert all(p.dtype == g.dtype for p, g in zip(parameters, gradients, strict=True))


# Random numbers


def noise(x):
    """Of many kinds, some of it never used."""
    torch.randn(3)
    normal = torch.randn_like(x)
    dropped = nn.functional.dropout(x + 1, 0.5)
    index = torch.randperm(5)
    gamma = dist.Gamma(x.exp(), 1.0).rsample()
    torch.rand(2)
    return normal, dropped, index, gamma, torch.empty_like(x).exponential_(), torch.rand(4)


def used_noise(x):
    return torch.randn_like(x), nn.functional.dropout(x + 1, 0.5), torch.bernoulli(x.sigmoid())


@pytest.mark.parametrize(("backend", "fn"), [
    ("eager", noise),
    ("aot_eager", used_noise),  # AOT autograd leaves out what is not used, inductor does not
    ("inductor", noise),
])  # fmt: skip
def test_the_generator_is_used_as_it_was(backend, fn):
    results, x = [], torch.zeros(9)
    with no_fallback():
        for run in (fn, Compiled(fn, backend)):
            pyro.set_rng_seed(0)
            results.append(([run(x) for _ in range(4)], torch.get_rng_state()))
    close(results[1], results[0])
    assert len({tuple(call[0].tolist()) for call in results[1][0]}) == 4


# What cannot be compiled


def branches(sign=1.0):
    """Whose model looks at a value."""

    def model(x):
        w = pyro.param("w", torch.tensor(0.7))
        loc = w if sign * x.sum() > 0 else w.exp()
        pyro.sample("x", dist.Normal(loc, 1.0).expand([2]).to_event(1), obs=x)

    return model, lambda x: None


def reads():
    """Whose model makes a number of a tensor."""

    def model(x):
        w = pyro.param("w", torch.tensor(0.7))
        loc = w * float(x.mean())
        pyro.sample("x", dist.Normal(loc, 1.0).expand([2]).to_event(1), obs=x)

    return model, lambda x: None


def late_look():
    """The density is computed when the model has ended."""

    def model(x):
        w = pyro.param("w", torch.tensor(0.7))
        pyro.sample("x", dist.Stable(1.0 + w.sigmoid() / 2, 0.0, coords="S").expand([2]).to_event(1), obs=x)
        pyro.deterministic("last", w)

    return model, lambda x: None


def five_calls(elbo, model, guide):
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    found, w = [], None
    for call in range(5):
        loss = elbo.loss_and_grads(model, guide, torch.tensor([1.0, 0.3 * call]))
        w = dict(pyro.get_param_store().named_parameters())["w"]
        found.append((loss, w.grad))
        w.grad = None
        with torch.no_grad():
            w.add_(0.1)
    return found, torch.get_rng_state()


def check_fallback(program, backend="eager"):
    """The one warning."""
    model, guide = program()
    expected = five_calls(Trace_ELBO(), model, guide)
    elbo = CompiledTrace_ELBO(backend=backend)
    with pytest.warns() as caught:
        actual = five_calls(elbo, model, guide)
    ours = [str(warning.message) for warning in caught if "compiled" in str(warning.message)]
    assert len(ours) == 1
    assert ours[0].startswith("not compiled: ")
    assert "\n" not in ours[0]
    assert graphs_of(elbo._loss_and_gradients) == 0
    close(actual, expected)
    return ours[0]


def place_of(program, text):
    """`file:line` of the line with this text."""
    lines, start = inspect.getsourcelines(program)
    return f"{__file__}:{start + next(i for i, line in enumerate(lines) if text in line)}"


@pytest.mark.parametrize(("program", "text"), [(branches, "sign * x"), (reads, "float("), (late_look, "pyro.sample")])
def test_what_cannot_be_traced_runs_as_it_is_after_one_warning_that_names_the_line(program, text):
    message = check_fallback(program)
    assert "data-dependent" in message
    assert message.startswith(f"not compiled: {place_of(program, text)}: ")


@pytest.mark.parametrize(("text", "place"), [
    ("pyro.sample('v', pyro.distributions.VonMises(0.0, 1.0))", "site 'v'"),
    ("pyro.nn.PyroModule.__call__(Looks())", "Looks"),
])  # fmt: skip
def test_a_program_that_is_wholly_pyros_is_named_by_its_site_or_module(as_traced, text, place):
    source = f"""
class Looks(pyro.nn.PyroModule):
    def forward(self):
        return 1 if torch.ones(1) > 0 else 2

def fn(x):
    {text}
    return x
"""
    program = {"pyro": pyro, "torch": torch}
    exec(compile(source, f"{os.path.dirname(pyro.__file__)}/program.py", "exec"), program)
    fast = Compiled(program["fn"])
    fast(torch.ones(2))
    with pytest.warns(UserWarning, match=f"not compiled: {place}: the program uses the value of a tensor"):
        fast(torch.ones(2))


def test_distributions_are_not_checked_while_tracing_only(as_traced):
    before = torch.distributions.Distribution.__init__, torch.distributions.Distribution._validate_sample
    prior = dist.Normal(torch.zeros(2), 1.0, validate_args=True).expand([3, 2]).to_event(2)  # as in a `PyroSample`
    fast = Compiled(lambda x: prior.log_prob(x) + dist.Normal(x.sum(), 1.0, validate_args=True).log_prob(x).sum())
    with no_fallback():
        for _ in range(4):
            x = torch.randn(3, 2)
            close(fast(x), fast.fn(x))
    assert graphs_of(fast) == 1
    failing = Compiled(lambda x: dist.Normal(x, 1.0, validate_args=True).log_prob(x if x > 0 else -x))
    with pytest.warns(UserWarning, match="not compiled"):
        failing(torch.ones(())), failing(torch.ones(()))
    assert before == (torch.distributions.Distribution.__init__, torch.distributions.Distribution._validate_sample)
    with pytest.raises(ValueError, match="loc"):
        dist.Normal(torch.tensor(torch.nan), 1.0, validate_args=True)


def test_noise_of_what_cannot_be_traced():
    def program():
        def model(x):
            w = pyro.param("w", torch.tensor(0.7))
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(w if z > 0 else w * z, 1.0).expand([2]).to_event(1), obs=x)

        def guide(x):
            pyro.sample("z", dist.Normal(0.1, 1.0))

        return model, guide

    check_fallback(program)


def broken(graph, inputs):
    raise RuntimeError("no code for this machine")


@pytest.mark.parametrize("folder", ["pyro", "torch"])
def test_the_warning_names_programs_in_folders_of_any_name(as_traced, folder):
    program, path = {}, f"/home/me/{folder}/model.py"
    exec(compile("def fn(x):\n    return x if x.sum() > 0 else -x", path, "exec"), program)
    fast = Compiled(program["fn"])
    fast(torch.ones(2))
    with pytest.warns(UserWarning, match=f"not compiled: {path}:2: "):
        fast(torch.ones(2))


def test_a_compiler_that_fails():
    def program():
        def model(x):
            z = pyro.sample("z", dist.Normal(pyro.param("w", torch.tensor(0.7)), 1.0))
            pyro.sample("x", dist.Normal(z, 1.0).expand([2]).to_event(1), obs=x)

        return model, lambda x: pyro.sample("z", dist.Normal(0.1, 1.0))

    message = check_fallback(program, broken)
    assert "no code for this machine" in message
    assert f"{__file__}:{inspect.getsourcelines(broken)[1] + 1}" in message


def test_other_signatures_are_compiled_all_the_same(as_traced):
    fast = Compiled(lambda x, k: x * 2 if k == 0 or x.sum() > 0 else x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(5):
            assert fast(torch.tensor(1.0), 0) == fast(torch.tensor(1.0), 1) == 2
    assert ["not compiled" in str(warning.message) for warning in caught] == [True]
    assert graphs_of(fast) == 1


def test_errors_of_the_function_itself_are_raised(as_traced):
    def fn(x, fails):
        if fails:
            raise ValueError("mine")
        return x

    fast = Compiled(fn)
    for _ in range(3):
        with pytest.raises(ValueError, match="mine"):
            fast(torch.ones(1), True)
    assert fast(torch.ones(1), False) == 1


# Gradients


def test_gradients_are_those_of_autograd():
    a, b, unused = (torch.randn(3, requires_grad=True) for _ in range(3))
    twice = lambda: ((a * b).sum() + a.square().sum(), b.detach() + 1)  # noqa: E731
    values, parameters, gradients = with_gradients(twice)()
    assert {id(p) for p in parameters} == {id(a), id(b)}
    assert not any(value.requires_grad for value in values)
    close(values, [v.detach() for v in twice()])
    by_parameter = {id(p): g for p, g in zip(parameters, gradients, strict=True)}
    close(by_parameter[id(a)], (b + 2 * a).detach())
    close(by_parameter[id(b)], a.detach())
    assert all(p.grad is None for p in (a, b, unused))
    assert with_gradients(lambda: torch.ones(()))()[1:] == ([], [])
    with torch.no_grad():
        close(with_gradients(twice)()[2], gradients)


def test_both_passes_run_in_the_context():
    seen, a = [], torch.ones(2, requires_grad=True)

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    with_gradients(lambda: a.sigmoid().sum(), Mode)()
    assert any("sigmoid.default" in name for name in seen)
    assert any("sigmoid_backward" in name for name in seen)


class FirstOnly(torch.autograd.Function):
    """Whose second argument gets no gradient."""

    @staticmethod
    def forward(ctx, a, b):
        return a * b.detach()

    @staticmethod
    def backward(ctx, outer):
        return outer, None


def test_parameters_without_a_gradient_are_passed_over():
    a, b = torch.ones((), requires_grad=True), torch.ones((), requires_grad=True)
    _, parameters, gradients = with_gradients(lambda: FirstOnly.apply(a, b))()
    assert [p is a for p in parameters if p is not b] == [True]
    close(gradients[0], torch.tensor(1.0))


# This library's objectives and families


def options(group):
    return sorted(f.stem for f in (CONFIG_DIR / group).glob("*.yaml"))


def make(group, name, **settings):
    return instantiate(OmegaConf.load(CONFIG_DIR / group / f"{name}.yaml"), **settings)


GROUPS = ("guide", "prior", "likelihood", "conditioning")
SMALL = {
    ("guide", "inverse_autoregressive"): {"hidden": [4], "num_transforms": 1},
    ("guide", "neural_spline"): {"hidden": [4], "num_bins": 3},
    ("guide", "semi_amortized"): {"num_steps": 1, "num_particles": 2},
    ("guide", "low_rank"): {"rank": 1},
    ("guide", "mixture"): {"num_components": 2},
    ("prior", "vamp"): {"num_pseudo_inputs": 3},
    ("likelihood", "categorical"): {"num_levels": 2},
    ("likelihood", "discretized_logistic"): {"num_levels": 2},
    ("likelihood", "discretized_logistic_mixture"): {"num_levels": 2},
    ("likelihood", "table"): {"columns": COLUMNS},
}


def build(
    guide="diagonal", prior="standard_normal", likelihood="bernoulli", conditioning="none", latent_dim=2, hidden=()
):
    families = {
        group: partial(instantiate, OmegaConf.load(CONFIG_DIR / group / f"{name}.yaml"), **SMALL.get((group, name), {}))
        for group, name in (("guide", guide), ("prior", prior), ("likelihood", likelihood))
    }
    network = MLP(list(hidden), upper_hidden=list(hidden))
    return VAE.build([5], latent_dim, network, **families, conditioning=conditioning, num_classes=3).double()


X = (torch.arange(20).reshape(4, 5) % 3 == 0).double()
Y = torch.tensor([0, 1, 2, 0])


def losses(vae, objective, backend, num_calls=4, x=X):
    """Loss and gradients of each call, with steps between them; the generator's state; how many graphs."""
    loss = with_gradients(lambda model, guide, x, y, variant: objective.differentiable_loss(model, guide, x, y))
    run = loss if backend is None else Compiled(loss, backend)
    vae, found = copy.deepcopy(vae), []
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    for call in range(num_calls):
        variant = objective.at_step(call, call / 3)
        (value,), parameters, gradients = run(vae.model, vae.guide, x, Y, variant)
        by_id = {id(p): gradient for p, gradient in zip(parameters, gradients, strict=True)}
        named = {name: by_id[id(p)] for name, p in vae.named_parameters() if id(p) in by_id}
        assert named
        found.append((value, named))
        with torch.no_grad():
            for p in vae.parameters():
                p.sub_(0.001 * by_id.get(id(p), torch.zeros(())))
    return found, torch.get_rng_state(), graphs_of(run) if isinstance(run, Compiled) else None


def check_losses(vae, objective, backend="eager", num_calls=4, x=X):
    *expected, _ = losses(vae, objective, None, num_calls, x)
    assert len({value.item() for value, _ in expected[0]}) == num_calls
    with no_fallback():
        *actual, num_graphs = losses(vae, objective, backend, num_calls, x)
    assert num_graphs == objective.num_variants
    close(actual, expected)


def check_objective(name, backend="eager"):
    objective = make("objective", name, num_particles=3)
    check_losses(build(), objective, backend, num_calls=4 * objective.num_variants)


COMPILED = ("kl_annealing", "dreg", "score_function", "reweighted_wake_sleep", "variational_em")
"""Of each kind one; the ELBO and IWAE are in `test_svi.py`."""


@pytest.mark.parametrize("name", sorted({*options("objective")} - {*COMPILED, "semi_supervised"}))
def test_objective(name, as_traced):
    check_objective(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_objective(name):
    """With the epoch and the step going on: an annealed weight is no new graph, the turns of EM are one each."""
    check_objective(name, "aot_eager")


@pytest.mark.slow
def test_the_sleep_phase_and_two_layers(as_traced):
    objective = make("objective", "reweighted_wake_sleep", num_particles=2, insomnia=0.5)
    check_losses(build(latent_dim=[2, 2], hidden=[3]), objective)


def test_the_weight_of_the_kl_is_that_of_the_epoch(as_traced):
    """And the sequence of weights is not that of the two calls which were traced."""
    objective, vae = make("objective", "kl_annealing", num_epochs=2), build()
    fast = Compiled(with_gradients(objective.differentiable_loss))
    for epoch in (0.0, 0.5, 1.0, 1.5, 2.0, 0.2):
        objective.at_step(0, epoch)
        pyro.set_rng_seed(1)
        ((loss,), *_), weight = fast(vae.model, vae.guide, X, Y), min(1, epoch / 2)
        pyro.set_rng_seed(1)
        close(loss, make("objective", "beta_vae", beta=weight).differentiable_loss(vae.model, vae.guide, X, Y).detach())
    assert graphs_of(fast) == 1


TRACED = [
    ("diagonal", "standard_normal", "bernoulli", "none"),
    ("full_covariance", "mixture", "beta", "none"),
    ("inverse_autoregressive", "flow", "categorical", "none"),
    ("low_rank", "vamp", "continuous_bernoulli", "none"),
    ("mixture", "class_conditional", "discretized_logistic", "prior"),
    ("neural_spline", "standard_normal", "discretized_logistic_mixture", "none"),
    ("point", "standard_normal", "gaussian", "none"),
    ("semi_amortized", "standard_normal", "negative_binomial", "none"),
    ("diagonal", "standard_normal", "poisson", "none"),
    ("full_covariance", "standard_normal", "student_t", "none"),
    ("diagonal", "standard_normal", "table", "none"),
    ("categorical", "categorical", "bernoulli", "none"),
    ("enumerated", "categorical", "bernoulli", "none"),
    ("diagonal", "standard_normal", "bernoulli", "concat"),
]


def test_every_family_is_tried():
    for names, group in zip(zip(*TRACED, strict=True), GROUPS, strict=True):
        assert {*names} == {*options(group)} - {"semi_supervised"}  # another class: test_semi_supervised.py


SLOW = [pytest.param(families, marks=pytest.mark.slow) for families in TRACED[1:-3]]


@pytest.mark.parametrize("families", [TRACED[0], *SLOW, *TRACED[-3:]], ids="-".join)
def test_families(families, as_traced):
    x = {"beta": 0.2 + 0.6 * X, "table": torch.where(X.roll(1, 1) == 1, torch.nan, X)}.get(families[2], X)
    check_losses(build(*families), make("objective", "trace_elbo"), x=x)


@pytest.mark.parametrize("name", ["dreg", "sticking_the_landing"])
def test_parameters_are_parameters(name):
    vae = build()
    loss = make("objective", name, num_particles=3).differentiable_loss
    _, parameters, _ = with_gradients(loss)(vae.model, vae.guide, X, Y)
    assert {id(p) for p in parameters} <= {id(p) for p in vae.parameters()}


@pytest.mark.usefixtures("as_traced")
def test_modules_that_a_program_finds_elsewhere_may_change_their_mode():
    """As `pyro.module` and plain functions have it: `encoder.eval()` is no argument of theirs."""
    dropout, once = nn.Dropout(0.5), nn.Dropout(0.5).eval()
    fast = Compiled(lambda x: once(dropout(x)))
    x = torch.ones(200)
    for _ in range(2):
        for training in (True, True, True, False, False, False):
            dropout.train(training)
            with no_fallback():
                assert (fast(x) == 0).any() == training
    assert graphs_of(fast) == 2
    once.train()
    dropout.eval()
    assert (fast(x) == 0).any()


@pytest.mark.usefixtures("as_traced")
def test_modes_are_known_after_the_first_call():
    module, counted = nn.Dropout(0.5).eval(), Counted(lambda x: module(x))
    fast = Compiled(counted)
    fast.take_only(lambda: fast(torch.ones(3)))
    for _ in range(3):
        assert (fast(torch.ones(3)) == 1).all()
    assert counted.calls == 2  # as it is, and traced


# What changes outside the arguments


def test_the_program_is_compared_with_its_graph_now_and_then(as_traced):
    fn, outside = Counted(lambda x, outside: torch.randn_like(x) * outside + 2.0), torch.ones(2)
    fast = Compiled(partial(fn, outside=outside), watch=True)
    calls = []
    with no_fallback():
        for call in range(12):
            outside.add_(1.0)  # in place
            pyro.set_rng_seed(call)
            result = fast(torch.ones(2))
            calls.append(fn.calls)
            pyro.set_rng_seed(call)
            close(result, fn.fn(torch.ones(2), outside))
    assert calls == [1, 2, 3, *[3] * 8, 4]  # as it is, traced, compared, nine times the graph, compared


def test_a_program_may_ask_whether_it_is_traced(as_traced):
    fn = Counted(lambda x: torch.sin(x) if get_proxy_mode() is None else torch.cos(x - torch.pi / 2))
    fast, x, calls = Compiled(fn, watch=True), torch.ones(2), []
    with no_fallback():
        for _ in range(13):
            close(fast(x), x.sin())
            calls.append(fn.calls)
    assert calls == [1, 2, 3, 4, *[4] * 7, 5, 5]  # as it is, traced, compared, compared traced, ..., compared traced
    assert graphs_of(fast) == 1


def changing(kind):
    """A function whose results change at the call it is told, and what to do before each call."""
    now = {"number": 1.0, "tensor": torch.ones(2), "parameter": nn.Parameter(torch.ones(2))}

    def change():
        now["number"] += 1.0
        now["tensor"] = now["tensor"] + 1.0
        now["parameter"] = nn.Parameter(now["parameter"].detach().clone())  # of the same value

    kinds = {
        "number": lambda x: x * now["number"],
        "new tensor": lambda x: x + torch.tensor([now["number"], 0.0]),
        "array": lambda x: x + torch.from_numpy(np.full(2, now["number"])),
        "replaced tensor": lambda x: x - now["tensor"],
        "replaced parameter": lambda x: (x - now["parameter"]).detach(),
        "branch": lambda x: x.exp() if now["number"] < 3 else x.sin(),
        "more": lambda x: sum(x for _ in range(int(now["number"]))),
    }
    return kinds[kind], change


KINDS = ("number", "new tensor", "array", "replaced tensor", "replaced parameter", "branch", "more")


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_outside_the_arguments_is_not_compiled(as_traced, kind):
    fn, change = changing(kind)
    fast, x = Compiled(fn, watch=True), torch.ones(2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(6):
            close(fast(x), fn(x))
            change()
    (message,) = (str(warning.message) for warning in caught)
    place = place_of(changing, f'"{kind}": lambda')
    assert message.startswith(f"not compiled: {place}: ")
    assert "a compiled graph would not change" in message
    assert graphs_of(fast) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_change_is_noticed_later(as_traced, kind):
    fn, change = changing(kind)
    fast, x = Compiled(fn, watch=True), torch.ones(2)
    with no_fallback():
        for _ in range(11):
            fast(x)
        fast(torch.ones(1))  # of another signature
    assert graphs_of(fast) == 1
    change(), change()
    close(fast(x), fn(x))
    with pytest.warns(UserWarning, match="not compiled"):
        close(fast(x), fn(x))
    for _ in range(4):
        close(fast(x), fn(x))
        close(fast(torch.ones(1)), fn(torch.ones(1)))
    assert graphs_of(fast) == 0


@pytest.mark.parametrize("watch", [True, False])
def test_only_who_watches_sees_changes(as_traced, watch):
    fn, change = changing("number")
    fast = Compiled(fn, watch=watch)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(4):
            result = fast(torch.ones(2))
            change()
    assert len(caught) == watch
    assert result[0] == (4.0 if watch else 2.0)


def noisy(library):
    return {
        "random": lambda x: x * random.random(),
        "numpy.random": lambda x: x + torch.from_numpy(np.random.randn(2)),
    }[library]


@pytest.mark.parametrize("library", ["random", "numpy.random"])
def test_random_numbers_of_others_are_not_compiled_and_drawn_once_a_call(as_traced, library):
    fn = noisy(library)
    fast, x, found = Compiled(fn, watch=True), torch.ones(2), []
    for run in (fn, fast):
        pyro.set_rng_seed(0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found.append([run(x) for _ in range(5)])
    close(*found)
    (message,) = (str(warning.message) for warning in caught)
    place = place_of(noisy, f'"{library}": lambda')
    assert message.startswith(f"not compiled: {place}: random numbers have been drawn from {library},")


def test_numpy_may_have_another_generator(as_traced):
    """Its state is a dict, not MT19937's tuple."""
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(1))
    try:
        test_random_numbers_of_others_are_not_compiled_and_drawn_once_a_call(as_traced, "numpy.random")
    finally:
        np.random.set_bit_generator(before)


def test_random_numbers_that_are_drawn_last(as_traced):
    fast = Compiled(lambda x: (x + 1, random.random())[0], watch=True)
    fast(torch.ones(1))
    with pytest.warns(UserWarning, match="drawn from random"):
        fast(torch.ones(1))
