"""What cannot be loaded or estimated later is told before training."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import pyro_vae
from pyro_vae.errors import BadInput
from pyro_vae.networks import MLP
from pyro_vae.runs.plain import not_plain

X = (np.random.default_rng(0).random((61, 6)) < 0.4).astype(np.float32)
TINY = {"latent_dim": 2, "max_epochs": 1, "verbose": False, "overrides": ["trainer.compile=false"]}


class Stateful(nn.Identity):
    def get_extra_state(self):
        return {"version": 1}

    def set_extra_state(self, state):
        pass


class Masked(nn.Identity):
    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.full((3, 3), -torch.inf).triu(1))


class AlwaysDropout(nn.Module):
    def forward(self, x):
        return nn.functional.dropout(x, 0.3, training=True)


class WithModule(MLP):
    """An MLP whose encoder begins with another module."""

    first = nn.Identity

    def __init__(self):
        super().__init__([8])

    def encoder(self, data_shape, context_dim=0):
        return nn.Sequential(self.first(), *super().encoder(data_shape, context_dim))


class WithState(WithModule):
    first = Stateful


class WithMask(WithModule):
    first = Masked


class WithDropout(WithModule):
    first = AlwaysDropout


class Normalized(WithModule):
    first = partial(nn.BatchNorm1d, 6)


def first_of(vae):
    return next(module for module in vae.encoder.modules() if isinstance(module, (Masked, nn.BatchNorm1d)))


def test_a_model_that_cannot_be_loaded_is_not_trained(tmp_path):
    rows = []
    with pytest.raises(BadInput, match="could not be loaded after training .* no other state"):
        pyro_vae.fit(X, network=WithState(), callbacks=rows.append, run_dir=tmp_path / "run", **TINY)
    assert not rows
    assert not (tmp_path / "run" / "checkpoints" / "last.pt").exists()


def test_buffers_may_hold_infinity():
    vae = pyro_vae.fit(X, network=WithMask(), **TINY)
    assert first_of(vae).mask.isinf().any()


def test_a_model_without_log_px_is_trained_with_a_warning(caplog):
    vae = pyro_vae.fit(X, network=WithDropout(), **TINY)
    assert "log p(x) of this model cannot be estimated: the log-density of site z of the guide" in caplog.text
    assert vae.sample(3).shape == (3, 6)
    with pytest.raises(BadInput, match="random"):
        vae.log_prob(X[:2], 5, estimator="importance")


def test_batch_normalization_needs_two_rows_in_the_last_batch():
    options = {**TINY, "network": Normalized(), "overrides": ["data.val_fraction=0", "trainer.compile=false"]}
    for batch_size in (20, 1):
        with pytest.raises(BadInput, match=f"batch_size={batch_size} leaves a last batch of 1 of 61 training rows"):
            pyro_vae.fit(X, batch_size=batch_size, **options)
    assert len(pyro_vae.fit(X[:60], batch_size=20, **options).history) == 1


def test_the_encoder_of_a_vae_in_training_mode_is_exported():
    vae = pyro_vae.fit(X, network=Normalized(), batch_size=20, **TINY).train()
    before = first_of(vae).num_batches_tracked.clone()
    assert vae.encoder_module().training
    assert torch.equal(first_of(vae).num_batches_tracked, before)


def test_configurations_of_wide_tables_are_plain():
    columns = [{"name": f"c{i}", "categories": [str(j) for j in range(90)]} for i in range(1000)]
    assert not_plain({"data": {"columns": columns}, "likelihood": {"columns": columns}}) is None
