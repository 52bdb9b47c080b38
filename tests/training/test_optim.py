import pickle
import sys
from copy import deepcopy
from functools import partial
from importlib import import_module

import pyro
import pyro.distributions as dist
import pytest
import torch
from hydra.utils import instantiate
from pyro.infer import SVI
from pyro.optim import PyroOptim
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    ExponentialLR,
    MultiStepLR,
    ReduceLROnPlateau,
    StepLR,
)

from pyro_vae.errors import BadInput, FailedRun
from pyro_vae.objectives import TraceMeanField_ELBO
from pyro_vae.runs.config import compose
from pyro_vae.training.optim import FusedAdam, JointOptim

ADAM = partial(torch.optim.Adam, lr=1e-2)
FUSED = partial(torch.optim.Adam, fused=True)


def steps(vae, optim, n, end_epoch=False):
    x = torch.arange(30).reshape(5, 6).double() % 2
    svi = SVI(vae.model, vae.guide, optim, loss=TraceMeanField_ELBO())
    for i in range(n):
        torch.manual_seed(i)
        svi.step(x)
        if end_epoch:
            optim.end_epoch(0.0)
    return torch.nn.utils.parameters_to_vector(vae.parameters()).detach()


def test_steps_are_those_of_pyros_one_optimizer_a_parameter(small_vae):
    twin = deepcopy(small_vae)
    ours = steps(small_vae, JointOptim(ADAM), 5)
    pyro.clear_param_store()
    torch.testing.assert_close(ours, steps(twin, PyroOptim(torch.optim.Adam, {"lr": 1e-2}), 5))


def test_clip_norm_bounds_the_norm_of_the_whole_gradient(small_vae):
    before = torch.nn.utils.parameters_to_vector(small_vae.parameters()).detach()
    after = steps(small_vae, JointOptim(partial(torch.optim.SGD, lr=1.0), clip_norm=0.1), 1)
    assert (after - before).norm().item() == pytest.approx(0.1, rel=1e-6)


def test_clip_norm_is_about_all_groups():
    for name in ("a", "b"):
        pyro.param(name, torch.zeros(2))
    parameters = [p for _, p in pyro.get_param_store().named_parameters()]
    for p in parameters:
        p.grad = torch.full((2,), 100.0)
    in_groups = lambda ps: torch.optim.SGD([{"params": [p]} for p in ps], lr=1.0)  # noqa: E731
    JointOptim(in_groups, clip_norm=1.0)(parameters)
    torch.testing.assert_close(torch.stack(parameters), torch.full((2, 2), -0.5))


def test_settings_are_not_given_as_a_dict():
    with pytest.raises(BadInput, match=r"scheduler=\{'lr': 0.01\} is a dict: give settings by partial"):
        JointOptim(torch.optim.SGD, {"lr": 0.01})


@pytest.mark.parametrize("lr", [1, 1.0])
def test_an_integer_learning_rate_is_resumed(small_vae, lr):
    def make():
        return JointOptim(partial(torch.optim.SGD, lr=lr), partial(ExponentialLR, gamma=0.1))

    twin, optim = deepcopy(small_vae), make()
    steps(small_vae, optim, 1, end_epoch=True)
    state = deepcopy(optim.get_state())
    expected = steps(small_vae, optim, 1)
    pyro.clear_param_store()
    steps(twin, other := make(), 1)
    other.set_state(state)
    torch.testing.assert_close(steps(twin, other, 1), expected)


def test_schedule(small_vae):
    optim = JointOptim(partial(torch.optim.SGD, lr=0.5), partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.1))
    steps(small_vae, optim, 2, end_epoch=True)
    assert optim.optimizer.param_groups[0]["lr"] == pytest.approx(0.005)


def test_plateau_watches_the_validation_elbo(small_vae):
    plateau = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, factor=0.1, patience=0)
    optim = JointOptim(partial(torch.optim.SGD, lr=0.5), plateau)
    steps(small_vae, optim, 1)
    for elbo, lr in [(-10.0, 0.5), (-9.0, 0.5), (-9.5, 0.05)]:
        optim.end_epoch(elbo)
        assert optim.optimizer.param_groups[0]["lr"] == pytest.approx(lr)


@pytest.mark.parametrize("level", [722.0, -722.0])
def test_plateau_takes_no_fall_of_the_elbo_for_a_rise(level, small_vae):
    """Whatever its sign: a threshold relative to a positive one would."""
    optim = JointOptim(partial(torch.optim.SGD, lr=0.5), instantiate(compose(["scheduler=plateau"]).scheduler))
    steps(small_vae, optim, 1)
    for i in range(7):
        optim.end_epoch(level - 0.05 * i)
    assert optim.optimizer.param_groups[0]["lr"] == pytest.approx(0.15)


def test_state_goes_on_exactly(small_vae):
    schedule = partial(torch.optim.lr_scheduler.ExponentialLR, gamma=0.5)
    whole, twin = JointOptim(ADAM, schedule), deepcopy(small_vae)
    expected = steps(small_vae, whole, 6, end_epoch=True)

    pyro.clear_param_store()
    first = JointOptim(ADAM, schedule)
    x = torch.arange(30).reshape(5, 6).double() % 2
    svi = SVI(twin.model, twin.guide, first, loss=TraceMeanField_ELBO())
    for i in range(6):
        if i == 3:  # as after a restart: another object
            second = JointOptim(ADAM, schedule)
            second.set_state(deepcopy(first.get_state()))
            assert second.get_state()["names"] == first.get_state()["names"]
            svi = SVI(twin.model, twin.guide, second, loss=TraceMeanField_ELBO())
        torch.manual_seed(i)
        svi.step(x)
        (first if i < 3 else second).end_epoch(0.0)
    assert torch.equal(torch.nn.utils.parameters_to_vector(twin.parameters()), expected)


@pytest.mark.parametrize(
    "arguments",
    [
        (partial(torch.optim.Adam, lr=-1.0),),
        (partial(torch.optim.Adam, lr=float("nan")),),
        (partial(torch.optim.Adam, lr=float("inf")),),
        (partial(torch.optim.Adam, speed=1.0),),
        (partial(torch.optim.Adam, lr="fast"),),
        (ADAM, partial(torch.optim.lr_scheduler.ConstantLR, factor=7.0)),
        (partial(torch.optim.Adam, lr=True),),
        (partial(torch.optim.Adam, betas=[0.9]),),
        (ADAM, partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=0)),
        (ADAM, None, 0.0),
        (ADAM, None, float("nan")),
    ],
)
def test_refuses_bad_settings_at_once(arguments):
    with pytest.raises(BadInput):
        JointOptim(*arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0, "weight_decay": 0.0}, "^optimizer.lr=-1.0 must be at least 0$"),
        ({"lr": "fast"}, "^optimizer.lr=fast must be a finite number$"),
        ({"lr": 0.1, "eps": -1.0}, "^optimizer.eps=-1.0 must be at least 0$"),
        ({"lr": 0.1, "weight_decay": -1.0}, "^optimizer.weight_decay=-1.0 must be at least 0$"),
        ({"lr": 0.1, "betas": [0.9, 1.5]}, r"^optimizer.betas=1.5 must be a number in \[0, 1\)$"),
        ({"lr": 0.1, "betas": [0.9]}, r"^optimizer.betas=\[0.9\] must be two numbers in \[0, 1\)"),
    ],
)
def test_a_setting_out_of_its_range_is_named_with_its_range(settings, message):
    with pytest.raises(BadInput, match=message):
        JointOptim(partial(torch.optim.Adam, **settings))


def test_nesterov_needs_momentum():
    with pytest.raises(BadInput, match="optimizer.nesterov=true needs optimizer.momentum above 0"):
        JointOptim(partial(torch.optim.SGD, lr=0.1, momentum=0.0, nesterov=True))


class Own(torch.optim.Adam):
    """An optimizer that this package does not know."""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0, "weight_decay": 0.0}, "Invalid learning rate: -1.0: change optimizer.lr=-1.0$"),
        ({"lr": -1.0, "eps": -1.0}, "change one of optimizer.lr=-1.0, optimizer.eps=-1.0$"),
    ],
)
def test_of_your_own_optimizer_the_setting_that_it_rejects_is_named(settings, message):
    with pytest.raises(BadInput, match=message):
        JointOptim(partial(Own, **settings))


def test_a_half_imported_torch_is_not_blamed_on_the_settings(monkeypatch):
    """As after Ctrl-C within the first optimizer's import of torch._dynamo."""

    def half_imported(params):
        return torch._dynamo.what_was_not_imported_any_more

    with pytest.raises(FailedRun, match="restart Python"):
        JointOptim(half_imported)
    with pytest.raises(FailedRun, match="restart Python"):
        JointOptim(lambda params: import_module("torch._dynamo.what_was_not_imported_any_more"))
    with pytest.raises(BadInput, match="change one of optimizer.params"):  # an argument's attribute
        JointOptim(partial(lambda p, params: params.lr, params=1))
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    with pytest.raises(FailedRun, match="restart Python"):
        JointOptim(ADAM)


def test_refuses_the_state_of_other_parameters(small_vae):
    optim = JointOptim(ADAM)
    optim.set_state({"names": ["a"], "optimizer": {}, "scheduler": {}})
    with pytest.raises(BadInput, match="other parameters"):
        steps(small_vae, optim, 1)


def test_fused_adam_passes_its_settings_to_torchs_adam():
    twins = [torch.ones(3).requires_grad_() for _ in range(2)]
    settings = {"lr": 0.1, "betas": (0.8, 0.99), "eps": 1e-4, "weight_decay": 0.1}
    optims = [FUSED([twins[0]], **settings), FusedAdam([twins[1]], **settings)]
    for gradient in (2.0, 1.0, -0.5):
        for p, optim in zip(twins, optims, strict=True):
            p.grad = torch.full((3,), gradient)
            optim.step()
        assert torch.equal(*twins)
    states = [optim.state_dict()["param_groups"] for optim in optims]
    assert states[0] == states[1]


def cleared(optim):
    optim.state.clear()
    return optim


def reloaded(optim):
    optim.load_state_dict(deepcopy(optim.state_dict()))
    return optim


def partly_cleared(optim):
    del optim.state[optim.param_groups[0]["params"][1]]
    return optim


def with_other_means(optim):
    for state in optim.state.values():
        state["exp_avg"] = torch.zeros(3)
    return optim


@pytest.mark.parametrize("between", [cleared, reloaded, partly_cleared, with_other_means])
def test_fused_adam_steps_the_same_as_torchs_whichever_parameters_have_gradients(between):
    """The lists that it keeps for the kernel follow gradients that come and go, and a new state."""
    twins = [[torch.ones(3).requires_grad_() for _ in range(3)] for _ in range(2)]
    theirs, ours = ([{"params": ps[:2]}, {"params": ps[2:], "lr": 0.2}] for ps in twins)
    optims = [FUSED(theirs, lr=0.1), FusedAdam(ours, lr=0.1)]
    for step, used in enumerate(([0, 2], [0, 1, 2], [1], [0, 1], [0, 1, 2], [0, 1, 2], [0])):
        for ps, optim in zip(twins, optims, strict=True):
            for i, p in enumerate(ps):
                p.grad = torch.full((3,), 1.0 + step) if i in used else None
            (between(optim) if step == 5 else optim).step()
        assert all(torch.equal(*pair) for pair in zip(*twins, strict=True))
    for mine, other in zip(
        *([optim.state[p] for p in ps] for ps, optim in zip(twins, optims, strict=True)), strict=True
    ):
        assert mine.keys() == other.keys()
        assert all(torch.equal(mine[name], other[name]) for name in mine)


@pytest.mark.parametrize(
    "copied", [deepcopy, lambda optim: pickle.loads(pickle.dumps(optim))], ids=["deepcopy", "pickle"]
)
def test_a_copy_of_fused_adam_steps_like_the_original(copied):
    p = torch.ones(3).requires_grad_()
    optim = FusedAdam([p], lr=0.1, first_square=0.5)
    for _ in range(2):
        p.grad = torch.ones(3)
        optim.step()
    twin = copied(optim)
    (q,) = twin.param_groups[0]["params"]
    for parameter, each in ((p, optim), (q, twin)):
        parameter.grad = torch.ones(3)
        each.step()
    assert torch.equal(p, q)
    assert twin.first_square == 0.5


def test_fused_adam_takes_amsgrad_of_a_group():
    twins = [torch.ones(3).requires_grad_() for _ in range(2)]
    optims = [adam([{"params": [p], "amsgrad": True}]) for adam, p in zip((FUSED, FusedAdam), twins, strict=True)]
    for gradient in (2.0, 0.1):
        for p, optim in zip(twins, optims, strict=True):
            p.grad = torch.full((3,), gradient)
            optim.step()
    assert torch.equal(*twins)


def test_adam_sets_means_of_gradients_to_zero_that_have_become_zero():
    """They decay to subnormal numbers, where rounding keeps them."""
    twins = [torch.randn(2, 40, generator=torch.Generator().manual_seed(0)).requires_grad_() for _ in range(2)]
    theirs, ours = FUSED([twins[0]]), FusedAdam([twins[1]])
    for step in range(1280):
        for p, optim in zip(twins, (theirs, ours), strict=True):
            p.grad = torch.ones(2, 40)
            p.grad[1] = float(step < 3)
            optim.step()
    tiny = torch.finfo(torch.float32).tiny
    stuck, dropped = (optim.state[p]["exp_avg"][1] for p, optim in zip(twins, (theirs, ours), strict=True))
    assert (stuck > 0).all()
    assert (stuck < tiny).all()
    assert (dropped == 0).all()
    assert torch.equal(*twins)


def test_parameters_without_gradient_get_no_state():
    p, unused = (torch.ones(3, requires_grad=True) for _ in range(2))
    optim = FusedAdam([p, unused])
    for _ in range(128):
        p.grad = torch.ones(3)
        optim.step()
    assert list(optim.state) == [p]


def test_adam_without_eps_keeps_small_means():
    p = torch.ones(3, requires_grad=True)
    optim = FusedAdam([p], lr=0.1, eps=0.0)
    for _ in range(129):
        p.grad = torch.full((3,), 1e-17)  # its square is 1e-34
        optim.step()
    torch.testing.assert_close(p.detach(), torch.full((3,), 1 - 12.9), rtol=1e-3, atol=0)


def test_a_first_square_above_0_is_that_of_the_authors_adam():
    """Burda, Grosse & Salakhutdinov's code, optimizers.py, which takes sums of n gradients where ours are means."""
    n, beta_1, beta_2, lr, eps = 20, 0.99, 0.999, 0.01, 1e-4
    p = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optim = FusedAdam([p], lr=lr, betas=(beta_1, beta_2), eps=0.0, first_square=1 / n**2)
    theirs, first, second = torch.zeros(5).double(), torch.zeros(5).double(), torch.ones(5).double()
    for t in range(1, 30):
        p.grad = torch.randn(5, dtype=torch.float64) * 10.0 ** torch.arange(-4, 1)
        gradient = -n * p.grad  # they ascend
        first = beta_1 * first + (1 - beta_1) * gradient
        second = beta_2 * second + (1 - beta_2) * gradient**2
        alpha = lr * (1 - beta_2**t) ** 0.5 / (1 - beta_1**t)
        theirs += alpha * first / (second.sqrt() + eps)
        optim.step()
    torch.testing.assert_close(
        p.detach(), theirs, rtol=1.1e-4, atol=0
    )  # but for their eps, beside a root of 0.98 or more
    with pytest.raises(BadInput, match="first_square=-1 must be at least 0"):
        FusedAdam([p], first_square=-1)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (partial(ReduceLROnPlateau, patience="abc"), "scheduler.patience=abc"),
        (partial(ReduceLROnPlateau, patience=-1), "scheduler.patience=-1"),
        (partial(ReduceLROnPlateau, threshold="abc"), "scheduler.threshold=abc"),
        (partial(ReduceLROnPlateau, threshold=-1.0), "scheduler.threshold=-1.0 must be at least 0"),
        (partial(ExponentialLR, gamma=-1), "scheduler.gamma=-1"),
        (partial(CosineAnnealingLR, T_max=5, eta_min=-1.0), "scheduler.eta_min=-1.0 must be at least 0"),
        (partial(MultiStepLR, milestones=[0.5, 2.5], gamma=0.1), "scheduler.milestones=0.5"),
        (partial(StepLR, step_size=1.5), "scheduler.step_size=1.5"),
        (partial(StepLR, step_size=0), "scheduler.step_size=0"),
        (partial(ConstantLR, total_iters="abc"), "scheduler.total_iters=abc"),
    ],
)
def test_schedules_that_torch_takes_and_does_not_do_are_refused(schedule, message):
    with pytest.raises(BadInput, match=message):
        JointOptim(partial(torch.optim.Adam, lr=0.1), schedule)


def test_a_step_of_pyros_svi_leaves_no_zeros_to_add_to():
    pyro.clear_param_store()

    def model(x):
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(pyro.param("loc", torch.zeros(())), 1.0), obs=x)

    svi = SVI(model, lambda x: None, JointOptim(partial(torch.optim.SGD, lr=0.1)), pyro.infer.Trace_ELBO())
    for expected in (0.6, 1.02):  # the gradient is 3 (loc - 2)
        svi.step(torch.full((3,), 2.0))
        loc = pyro.param("loc")
        assert loc.item() == pytest.approx(expected)
        assert loc.grad is None


def test_a_parameter_that_appears_later_is_refused():
    optim = JointOptim(ADAM)
    first = pyro.param("first", torch.zeros(2))
    optim({first})
    with pytest.raises(BadInput, match="the parameter later is new: JointOptim needs all"):
        optim({first, pyro.param("later", torch.zeros(2))})
