"""A run is opened, saved, resumed and restored."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import assert_same

from pyro_vae.errors import BadInput
from pyro_vae.marginal import NUTS
from pyro_vae.runs.build import build_data
from pyro_vae.runs.config import compose
from pyro_vae.runs.run import Run

OPTIONS = ["data=array", "data.binarize=dynamic", "network.hidden=[4]", "latent_dim=2", "trainer.compile=false"]


@pytest.fixture
def opened(tmp_path):
    """Open the run with a new data set each time."""
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((100, 6)).astype(np.float32))

    def open_run(*options, **settings):
        config = compose([*OPTIONS, "trainer.max_epochs=2", f"data.path={tmp_path / 'x.npy'}", *options])
        return Run.open(config, build_data(config), tmp_path / "run", **settings)

    return open_run


def test_opening_writes_nothing(opened, tmp_path):
    run = opened(resume=True)  # there is nothing to resume yet
    assert run.state.epoch == 0
    assert not (tmp_path / "run").exists()


def test_a_saved_run_opens_as_it_was(opened):
    run = opened()
    run.fit()
    weights = {name: value.clone() for name, value in run.vae.state_dict().items()}
    optim, noise = run.optim.get_state(), torch.rand(3)
    again = opened(resume=True)
    assert again.state == run.state
    assert again.state.epoch == 2
    assert_same(again.vae.state_dict(), weights)
    assert_same(again.optim.get_state(), optim)
    assert torch.equal(torch.rand(3), noise)
    assert not torch.equal(opened().vae.state_dict()["decoder.0.weight"], weights["decoder.0.weight"])


def test_the_best_epoch_is_restored_not_the_last(opened):
    run = opened()
    run.save(is_best=True)
    best = {name: value.clone() for name, value in run.vae.state_dict().items()}
    for value in run.vae.parameters():
        value.data += 1
    run.save()
    run.vae.train()
    run.restore_best()
    assert_same(run.vae.state_dict(), best)
    assert not run.vae.training
    name = "decoder.0.weight"
    assert torch.equal(run.checkpoints.load_last()["vae"][name], best[name] + 1)


def test_what_cannot_work_after_training_is_refused_before(opened):
    with pytest.raises(BadInput, match="estimator=nuts runs a chain for each"):
        opened(estimator=NUTS(max_data=2))
    with pytest.raises(BadInput, match="^trainer.patience=0 must be"):
        opened("trainer.patience=0")
