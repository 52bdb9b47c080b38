"""Sparse matrices are data without ever being dense as a whole."""

import sys

import numpy as np
import pytest
import torch
from scipy import sparse as sp

import pyro_vae
from pyro_vae.data import Stored, array, from_array
from pyro_vae.data import sparse as module
from pyro_vae.errors import BadInput

N, P = 100, 12
X = np.random.default_rng(0).poisson(0.4, (N, P))
OPTIONS = {
    "network": ("mlp", {"hidden": [8]}), "latent_dim": 2, "max_epochs": 2, "batch_size": 20, "verbose": False,
    "likelihood": "poisson",
}  # fmt: skip
IMPORTANCE = {"estimator": "importance", "num_samples": 30}
FORMATS = [sp.csr_matrix, sp.csr_array, sp.csc_array, sp.coo_matrix, sp.lil_array, sp.dok_array, sp.bsr_array]


@pytest.fixture
def densified(monkeypatch):
    """The numbers of rows that are densified at a time."""
    sizes, dense = [], module.densified

    def counted(rows):
        sizes.append(rows.shape[0])
        return dense(rows)

    monkeypatch.setattr(module, "densified", counted)
    return sizes


@pytest.fixture(scope="module")
def vae():
    return pyro_vae.fit(X, **OPTIONS)


@pytest.mark.parametrize("kind", FORMATS)
def test_all_formats_hold_the_same_data(kind):
    data, expected = from_array(kind(X)), from_array(X)
    assert isinstance(data.train, Stored)
    for name in ("train", "val", "test"):
        assert torch.equal(data.split(name, 9).x, expected.split(name, 9).x)


def test_training_densifies_a_batch_at_a_time(densified, monkeypatch):
    monkeypatch.setattr("pyro_vae.data.split.CHUNK_BYTES", 4 * P * 15)  # a chunk of 15 rows
    pyro_vae.fit(sp.csr_matrix(X), val_fraction=0.2, **OPTIONS)
    assert max(densified) == OPTIONS["batch_size"]


def test_training_is_that_on_a_dense_array(vae):
    assert torch.equal(pyro_vae.fit(sp.csr_matrix(X), **OPTIONS).encode(X), vae.encode(X))


def test_methods_densify_a_chunk_at_a_time(vae, densified, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * P * 30)
    x = sp.csc_matrix(X)
    torch.testing.assert_close(vae.encode(x), vae.encode(X))
    torch.testing.assert_close(vae.reconstruct(x), vae.reconstruct(X))
    evidence, expected = vae.evidence(x, **IMPORTANCE), vae.evidence(X, **IMPORTANCE)
    assert evidence.log_px.shape == evidence.ess.shape == (N,)
    error = (evidence.log_px - expected.log_px) / (evidence.se**2 + expected.se**2).sqrt()
    assert error.square().mean() < 2
    assert vae.log_prob(x, estimator="elbo", num_samples=3).shape == (N,)
    assert densified == [30, 30, 30, 10] * 4


def test_labels_follow_their_rows(densified, monkeypatch):
    monkeypatch.setattr(module, "CHUNK_BYTES", 4 * P * 30)
    y = np.arange(N) % 3
    vae = pyro_vae.fit(sp.csr_array(X), y, conditioning="concat", **OPTIONS)
    torch.testing.assert_close(vae.encode(sp.csr_array(X), y=y), vae.encode(X, y=y))
    torch.testing.assert_close(vae.encode(sp.csr_array(X), y=1), vae.encode(X, y=1))


def test_validation_data_may_be_sparse():
    data = from_array(sp.csr_array(X), val_fraction=0, validation=(sp.csr_array(X[:7]), None))
    assert torch.equal(data.val.x, torch.tensor(X[:7]).float())


def test_stored_entries_that_are_nan_are_missing():
    x = X.astype(float)
    x[3, 4] = np.nan
    assert from_array(sp.csr_array(x)).missing
    assert not from_array(sp.csr_array(X)).missing
    with pytest.raises(BadInput, match="x holds 1 values that are NaN"):
        from_array(sp.csr_array(x), missing=False)
    x[3, 4] = np.inf
    with pytest.raises(BadInput, match="x holds 1 values that are Inf"):
        from_array(sp.csr_array(x))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (sp.csr_array(X.astype(complex)), "x has dtype complex128: give real numbers"),
        (sp.csr_array((0, 5)), r"x is empty: its shape is \[0, 5\]"),
        (sp.coo_array(X[0]), r"x has shape \[12\]: a sparse one must be \[N, P\]"),
        (sp.csr_array(np.minimum(X, 1).astype(np.uint8)), r"bytes of 0 and 1.*give x.astype\(bool\)"),
    ],
)
def test_refuses(x, message):
    with pytest.raises(BadInput, match=message):
        from_array(x)


def test_methods_refuse_another_number_of_columns_and_what_they_cannot_use(vae):
    with pytest.raises(BadInput, match=r"x has shape \[100, 11\]: this VAE needs \[N, 12\]"):
        vae.encode(sp.csr_array(X[:, 1:]))
    with pytest.raises(BadInput, match="x is empty"):
        vae.log_prob(sp.csr_array((0, P)))
    with pytest.raises(BadInput, match=r"mask has shape \[11\]: it must broadcast to \[100, 12\]"):
        vae.impute(sp.csr_array(X), np.ones(11, bool))


@pytest.mark.parametrize("kind", [sp.csr_matrix, sp.csc_array])
def test_a_file_of_save_npz_is_read(kind, tmp_path):
    sp.save_npz(tmp_path / "x.npz", kind(X))
    data = array(str(tmp_path / "x.npz"), integers="counts")
    assert torch.equal(data.split("train", 9).x, from_array(X).split("train", 9).x)


def test_the_command_trains_on_a_file_of_save_npz(command, tmp_path):
    sp.save_npz(tmp_path / "x.npz", sp.csr_matrix(X.astype(np.uint8)))  # counts, not grey values
    arguments = ["data=array", "likelihood=poisson", "network.hidden=[8]", "latent_dim=2", "trainer.max_epochs=1",
                 "estimator=importance", "estimator.num_samples=5", "plots=false"]  # fmt: skip
    outcome = command("train", *arguments, f"data.path={tmp_path / 'x.npz'}", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err


def saved(path, **changes):
    x = sp.csr_array(X)
    content = {"format": b"csr", "shape": x.shape, "data": x.data, "indices": x.indices, "indptr": x.indptr, **changes}
    np.savez(path, **content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": b"coo"}, "in the format coo: save_npz"),
        ({"indices": np.full(sp.csr_array(X).nnz, 10**6)}, "is not a readable"),
        ({"indptr": np.full(N + 1, 10**9)}, "is not a readable"),
        ({"shape": (N, -1)}, "is not a readable"),
        ({"data": np.array([object()])}, "text or Python objects"),
    ],
)
def test_damaged_files_are_refused(changes, message, tmp_path):
    saved(tmp_path / "x.npz", **changes)
    with pytest.raises(BadInput, match=message):
        array(str(tmp_path / "x.npz"))


def test_scipy_is_not_imported_for_arrays(monkeypatch):
    monkeypatch.delitem(sys.modules, "scipy.sparse")
    assert not module.is_sparse(X)
    assert "scipy.sparse" not in sys.modules
