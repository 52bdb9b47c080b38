"""`vae.anomaly_score`: which held-out data it compares with."""

import numpy as np
import pytest
import torch

import pyro_vae
from pyro_vae.errors import BadInput

QUICK = {"estimator": "importance", "num_samples": 50, "num_steps": 5}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A VAE of `fit`, with 10 of 50 rows held out, and its run directory."""
    x = (torch.rand(50, 6, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    run_dir = tmp_path_factory.mktemp("fitted") / "run"
    options = {"latent_dim": 2, "network": ("mlp", {"hidden": [8]}), "max_epochs": 2, "val_fraction": 0.2}
    return pyro_vae.fit(x, run_dir=run_dir, verbose=False, **options), run_dir


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_fitted_vae_compares_with_its_validation_data(fitted):
    vae, _ = fitted
    scores = vae.anomaly_score(torch.eye(6)[:3], **QUICK)
    assert len(scores.held_out_log_px) == 10
    assert scores.contributions.shape == (3, 6)
    assert len(vae.anomaly_score(torch.eye(6), num_held_out=4, **QUICK).held_out_log_px) == 4
    assert len(vae.anomaly_score(torch.eye(6), held_out=torch.zeros(7, 6), **QUICK).held_out_log_px) == 7


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_loaded_vae_compares_with_the_test_data_of_its_run(small_run):
    vae = pyro_vae.load(small_run)
    scores = vae.anomaly_score(np.eye(12, dtype=np.float32)[:2], **QUICK)
    assert len(scores.held_out_log_px) == 20


def test_without_held_out_data_they_must_be_given(fitted, small_vae):
    _, run_dir = fitted
    with pytest.raises(BadInput, match="held_out=x_val"):
        small_vae.anomaly_score(torch.eye(6))
    with pytest.raises(BadInput, match="data in memory, which are not saved: give held_out=x_val"):
        pyro_vae.load(run_dir).anomaly_score(torch.eye(6))
    with pytest.raises(BadInput, match=r"x has shape \[5, 5\]"):
        fitted[0].anomaly_score(torch.eye(5))
