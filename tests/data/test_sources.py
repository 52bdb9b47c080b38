"""PyTorch's data sets and AnnData as data of `fit` and of a VAE's methods."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import sparse
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset, random_split

import pyro_vae
from pyro_vae.data import from_array
from pyro_vae.data.sources import source_of
from pyro_vae.errors import BadInput

N = 60
X = (torch.rand(N, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
Y = torch.arange(N) % 3
OPTIONS = {
    "network": ("mlp", {"hidden": [8]}), "latent_dim": 2, "max_epochs": 1, "batch_size": 20, "verbose": False,
}  # fmt: skip


class Rows(Dataset):
    """A map-style data set of whatever `item` returns."""

    def __init__(self, item, n=N):
        self.item, self.n = item, n

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        return self.item(i)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(X)


SUBSET = random_split(TensorDataset(X, Y), [40, 20], torch.Generator().manual_seed(0))[0]
UNLABELLED = {
    "tensors": TensorDataset(X),
    "rows": Rows(lambda i: X[i]),
    "tuples of one": Rows(lambda i: (X[i],)),
    "NumPy's": Rows(lambda i: X[i].numpy()),
    "no label": Rows(lambda i: (X[i], None)),
    "subset": Subset(TensorDataset(torch.cat([X, X])), range(N)),
    "concatenated": ConcatDataset([TensorDataset(X[:20]), TensorDataset(X[20:])]),
}
LABELLED = {
    "tensors": TensorDataset(X, Y),
    "tensor": Rows(lambda i: (X[i], Y[i])),
    "integer": Rows(lambda i: (X[i], int(Y[i]))),
    "NumPy's": Rows(lambda i: [X[i], np.int64(Y[i])]),
}


@pytest.mark.parametrize("kind", UNLABELLED)
def test_data_sets_of_tensors_are_their_tensors(kind):
    assert torch.equal(from_array(UNLABELLED[kind]).train.x, from_array(X).train.x)
    assert source_of(UNLABELLED[kind]).y is None


@pytest.mark.parametrize("kind", LABELLED)
def test_pairs_bring_labels(kind):
    data, expected = from_array(LABELLED[kind]), from_array(X, y=Y)
    assert torch.equal(data.train.x, expected.train.x)
    assert torch.equal(data.train.y, expected.train.y)


def test_a_random_split_keeps_its_rows():
    source = source_of(SUBSET)
    assert torch.equal(source.x, X[SUBSET.indices])
    assert torch.equal(source.y, Y[SUBSET.indices])


@pytest.fixture(scope="module")
def vae():
    return pyro_vae.fit(TensorDataset(X, Y), **OPTIONS)


def test_labels_of_a_data_set_are_left_unused_by_a_model_without_labels(vae):
    assert vae.num_classes is None
    assert torch.equal(vae.encode(X), pyro_vae.fit(X, **OPTIONS).encode(X))
    assert torch.equal(vae.encode(TensorDataset(X, Y)), vae.encode(X))


def test_a_conditional_model_learns_from_pairs_and_the_methods_read_them():
    pairs = TensorDataset(X, Y)
    vae = pyro_vae.fit(pairs, conditioning="concat", validation_data=SUBSET, **OPTIONS)
    assert vae.num_classes == 3
    for method in (vae.encode, vae.reconstruct):
        assert torch.equal(method(pairs), method(X, y=Y))
        assert torch.equal(method(pairs, y=0), method(X, y=0))
    given = {"estimator": "importance", "num_samples": 5}
    assert vae.evidence(pairs, **given).log_px.shape == vae.log_prob(pairs, **given).shape == (N,)
    assert vae.impute(pairs, torch.ones(6, dtype=torch.bool), num_samples=1, num_steps=1).shape == (1, N, 6)


def test_what_is_only_iterated_over_is_refused_with_its_remedy(vae):
    for use in (vae.encode, from_array, pyro_vae.fit):
        with pytest.raises(BadInput, match=r"x has type DataLoader: give its data set, loader.dataset"):
            use(DataLoader(TensorDataset(X)))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (Stream(), "x has type Stream, which is iterable, not map-style"),
        (TensorDataset(X, Y, Y), "x has type TensorDataset with 3 tensors"),
        (Rows(lambda i: X[i], 0), "x is empty: its data set of type Rows"),
        (Rows(lambda i: {"pixels": X[i]}), r"Rows, whose datapoints are of type dict: .*\(pixels\).*item\[KEY\]"),
        (Rows(lambda i: Image.new("L", (4, 4))), "Rows, whose datapoints are of type Image.*ToTensor"),
        (Rows(lambda i: (Image.new("L", (4, 4)), 1)), "are a tuple of Image, int: give it transform=.*ToTensor"),
        (Rows(lambda i: (X[i], 1, 2)), "are a tuple of Tensor, int, int: return a tensor, or a pair"),
        (Rows(lambda i: "text"), "are of type str: return a tensor"),
        (Rows(lambda i: ()), "are a tuple of nothing"),
        (Rows(lambda i: (X[i], "cat")), "Rows, whose labels are of type str: give integers"),
        (Rows(lambda i: X[i, : 5 + i % 2]), r"x\[1\] is a tensor \[6\] of torch.float32, and x\[0\] is a tensor \[5\]"),
        (Rows(lambda i: (X[i], 1) if i else X[i]), r"x\[1\] is a labelled tensor"),
        (Rows(lambda i: X[i] / (i - 3 and X[2, 99])), r"x\[0\] of type Rows cannot be read \(index 99"),
        (Rows(lambda i: (X[i], 0.5)), "y must hold labels 0, 1, 2"),
        (Rows(lambda i: X[0].expand(10**9, 6), 10**6), "x takes .* too much.*save it as a .npy file"),
    ],
)
def test_other_data_sets_are_refused_by_name(x, message):
    with pytest.raises(BadInput, match=message) as error:
        from_array(x)
    assert "\n" not in str(error.value)


class AnnData(SimpleNamespace):
    """What is used of the class of the same name."""

    isbacked = False

    def __len__(self):
        return len(self.obs)


AnnData.__module__ = "anndata._core.anndata"
CELLS = pd.DataFrame(
    {
        "cell_type": pd.Categorical(np.array(["T", "B", "NK"])[Y]),
        "batch": 10 + Y.numpy(),
        "hole": [None, *"ab" * 29, "a"],
    }
)


def annotated(x=None, obs=CELLS):
    try:
        from anndata import AnnData as Real
    except ImportError:
        Real = AnnData
    return Real(X=sparse.csr_matrix(X.numpy()) if x is None else x, obs=obs.set_axis(map(str, range(len(obs)))))


@pytest.mark.parametrize("x", [None, X.numpy()], ids=["sparse", "dense"])
def test_anndata_is_its_matrix_and_a_column_of_obs(x, tmp_path):
    adata = annotated(x)
    vae = pyro_vae.fit(adata, y="cell_type", conditioning="concat", run_dir=tmp_path / "run", **OPTIONS)
    codes = torch.tensor([2, 0, 1])[Y]  # B, NK, T
    expected = pyro_vae.fit(X, codes, conditioning="concat", **OPTIONS)
    assert torch.equal(vae.encode(adata, y="cell_type"), expected.encode(X, y=codes))
    some = annotated(X.numpy()[1::3], CELLS[1::3])  # B only, which keeps its number
    assert torch.equal(vae.encode(some, y="cell_type"), expected.encode(X[1::3], y=0))
    loaded = pyro_vae.load(tmp_path / "run")
    assert loaded.classes == ("B", "NK", "T")
    assert torch.equal(loaded.encode(some, y="cell_type"), vae.encode(some, y="cell_type"))
    other = annotated(X.numpy()[:3], CELLS[:3].assign(cell_type=["B", "monocyte", "T"]))
    with pytest.raises(BadInput, match="y=cell_type holds monocyte, which is not one of the classes B, NK, T"):
        vae.log_prob(other, y="cell_type")


@pytest.mark.parametrize("x", [None, X.numpy()], ids=["sparse", "dense"])
def test_genes_are_known_by_name(x):
    flipped = X.numpy()[:, ::-1].copy()
    adata, other = annotated(x), annotated(sparse.csr_matrix(flipped) if x is None else flipped)
    genes = [f"gene{i}" for i in range(X.shape[1])]
    adata.var_names, other.var_names = genes, genes[::-1]
    vae = pyro_vae.fit(adata, validation_data=other, **OPTIONS)
    assert vae.column_names == genes
    assert vae.history[-1]["val/elbo"] == pyro_vae.fit(X, validation_data=X, **OPTIONS).history[-1]["val/elbo"]
    torch.testing.assert_close(vae.encode(other), vae.encode(X))
    other.var_names = ["gene99", *genes[1:]]
    with pytest.raises(BadInput, match="x lacks the column gene0: the model has columns gene0, gene1"):
        vae.encode(other)


def test_numbers_in_obs_are_categories():
    source = source_of(annotated(), "batch")
    assert source.classes == ("10", "11", "12")
    assert source.y.tolist() == Y.tolist()


def test_numbers_in_obs_are_labels_of_a_model_whose_classes_have_no_names():
    cells = CELLS.assign(batch=Y.numpy())
    vae = pyro_vae.fit(annotated(), y=Y, conditioning="concat", **OPTIONS)
    assert torch.equal(vae.encode(annotated(obs=cells), y="batch"), vae.encode(X, y=Y))
    with pytest.raises(BadInput, match="y holds B, but the classes have no names"):
        vae.encode(annotated(), y="cell_type")
    mixed = CELLS.assign(batch=np.array([1, "1"] * (N // 2), dtype=object))
    with pytest.raises(BadInput, match="y=batch has categories that differ only in their types"):
        source_of(annotated(obs=mixed), "batch")


def test_missing_labels_in_obs_are_for_semi_supervised_models():
    source = source_of(annotated(), "hole")
    assert source.classes == ("a", "b")
    assert source.y.tolist() == [-1, *[0, 1] * 29, 0]
    vae = pyro_vae.fit(annotated(), y="hole", conditioning="semi_supervised", **OPTIONS)
    assert vae.predict_class(annotated()).shape == (60, 2)
    with pytest.raises(BadInput, match="labels are missing .-1., which only conditioning=semi_supervised allows"):
        pyro_vae.fit(annotated(), y="hole", conditioning="concat", **OPTIONS)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (SimpleNamespace, "type", "y=type is not a column of x.obs: choose one of cell_type, batch, hole"),
        (lambda: X, "cell_type", "y=cell_type names a column of obs, but x has type Tensor, not AnnData"),
    ],
)
def test_columns_that_are_not_labels_are_refused(x, y, message):
    with pytest.raises(BadInput, match=message):
        source_of(annotated() if x is SimpleNamespace else x(), y)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"isbacked": True}, r"backed mode, which stays on disk: give x.to_memory\(\)"),
        ({"X": None}, r"without a matrix X: give one of its layers"),
    ],
)
def test_anndata_without_a_matrix_in_memory_is_refused(change, message):
    with pytest.raises(BadInput, match=message):
        from_array(AnnData(**{"X": X.numpy(), "obs": CELLS, **change}))
