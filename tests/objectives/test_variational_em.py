from functools import partial

import pyro
import pytest
import torch
from pyro.infer import SVI
from tiny import Tiny
from torch.nn.utils import parameters_to_vector

from pyro_vae.objectives import TraceMeanField_ELBO, VariationalEM
from pyro_vae.training.optim import JointOptim


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, partial(torch.optim.AdamW, weight_decay=0.1),
                                       partial(torch.optim.SGD, momentum=0.9)])  # fmt: skip
def test_e_steps_move_the_guide_alone_and_m_steps_the_model_alone(optimizer, ppca):
    vae, x = ppca.vae, ppca.evidence.sample((10,))
    objective = VariationalEM(e_steps=3, m_steps=2)
    optim = JointOptim(partial(optimizer, lr=1e-3), clip_norm=1e3)
    svi = SVI(vae.model, vae.guide, optim, loss=lambda *args: objective.differentiable_loss(*args) / len(x))
    theta, phi = list(vae.decoder.parameters()), list(vae.posterior.parameters())
    for step in range(10):
        before = [parameters_to_vector(group).detach().clone() for group in (theta, phi)]
        objective.at_step(step, 0.0)
        svi.step(x, None)
        moved = [(parameters_to_vector(g) != b).all().item() for g, b in zip((theta, phi), before, strict=True)]
        kept = [(parameters_to_vector(g) == b).all().item() for g, b in zip((theta, phi), before, strict=True)]
        e_step = step % 5 < 3
        assert (moved, kept) == (([False, True], [True, False]) if e_step else ([True, False], [False, True])), step
    assert len(optim.optimizer.param_groups[0]["params"]) == len(list(vae.parameters()))


@pytest.mark.parametrize("layers", [1, 2])
def test_gradients_are_the_parts_of_the_elbos(layers):
    tiny, x = Tiny(layers), torch.randn(5, 3).double()
    em, losses, gradients = VariationalEM(1, 1, num_particles=3), [], []
    for objective, step in ((TraceMeanField_ELBO(3), 0), (em, 0), (em, 1)):
        torch.manual_seed(1)
        objective.at_step(step, 0.0)
        loss = objective.differentiable_loss(tiny.model, tiny.guide, x)
        losses.append(loss.item())
        gradients.append([tiny.gradient(loss, name) for name in "pq"])
    assert losses == pytest.approx([losses[0]] * 3)
    both, e_step, m_step = gradients
    torch.testing.assert_close(e_step[1], both[1])
    torch.testing.assert_close(m_step[0], both[0])
    assert not e_step[0].any()
    assert not m_step[1].any()


def test_the_m_step_holds_a_guide_that_makes_use_of_the_model_fixed():
    tiny, x = Tiny(1), torch.randn(5, 3).double()
    objective = VariationalEM(1, 1)
    objective.at_step(1, 0.0)
    loss = objective.differentiable_loss(tiny.model, lambda x: tiny.guide(x + tiny.p["b"]), x)
    z = [value.detach() for value in tiny.draws[0]]
    torch.testing.assert_close(tiny.gradient(loss, "p"), tiny.gradient(-tiny.log_p(x, z).sum(), "p"))


def test_a_parameter_of_both_programs_is_the_models():
    tiny, x = Tiny(1), torch.randn(5, 3).double()

    def guide(x):
        pyro.module("p", tiny.p)
        tiny.guide(x + tiny.p["b"])

    objective = VariationalEM(1, 1)
    for step, moving in ((0, tiny.q), (1, tiny.p)):
        objective.at_step(step, 0.0)
        objective.loss_and_grads(tiny.model, guide, x)
        assert [p.grad is not None for p in tiny.parameters()] == [p in set(moving.values()) for p in tiny.parameters()]
