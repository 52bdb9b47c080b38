"""One door for data: `fit` and every method take the same arrays, read them alike, and refuse the rest in one line."""

import warnings
from decimal import Decimal

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, TensorDataset

import pyro_vae
from pyro_vae.data import from_array
from pyro_vae.data.values import as_floats
from pyro_vae.errors import BadInput

N = 20
X = np.random.default_rng(0).random((N, 6)).astype(np.float32).round(2)
T = torch.from_numpy(X)


class Endless:
    """A sequence without an end; who iterates it is stopped by the test."""

    def __init__(self):
        self.taken = 0

    def __len__(self):
        return N

    def __getitem__(self, i):
        self.taken += 1
        assert self.taken < 1000, "is iterated"
        return [0.0] * 6


class EndlessDataset(Endless, Dataset):
    pass


class Broken:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("is\nbroken")


class Converts(Endless):
    def __array__(self, dtype=None, copy=None):
        return X


def within_itself():
    x = []
    x.append(x)
    return x


def shared(x=(0.0,)):
    for _ in range(9):
        x = [x] * 10
    return x


WRONG_DTYPES = {
    "complex": (X.astype(np.complex64), "x has dtype complex64"),
    "complex tensor": (T.to(torch.complex64), "x has dtype torch.complex64"),
    "strings": (X.astype(str), "x has dtype <U"),
    "list of strings": ([["a"] * 6] * N, "x has dtype <U1"),
    "datetimes": (np.zeros((N, 6), "M8[s]"), r"x has dtype datetime64\[s\]"),
    "objects": (X.astype(object), "x has dtype object"),
    "list of two kinds": ([[np.datetime64("2020")] * 5 + [1.0]] * N, "x has dtype object"),
    "records": (np.zeros((N, 6), "f4,i4"), "x has dtype"),
    "bits": ((X > 0.5).astype(np.uint8), r"x holds bytes of 0 and 1.*x.astype\(bool\)"),
    "bits in a tensor": ((T > 0.5).byte(), r"x holds bytes of 0 and 1.*x.bool\(\)"),
}
NOT_ARRAYS = {
    "endless": (Endless(), "x has type Endless: give a tensor, a NumPy array"),
    "dataset of lists": (EndlessDataset(), "x has type EndlessDataset, whose datapoints are a list of float, float"),
    "loader": (DataLoader(EndlessDataset()), "x has type DataLoader: give its data set"),
    "generator": ((row for row in X), "x has type generator: give a tensor"),
    "dict": ({"x": X}, "x has type dict: give"),
    "set": ({1.0}, "x has type set: give"),
    "none": (None, "x has type NoneType: give"),
    "path": ("x.npy", "x has type str: give"),
    "broken": (Broken(), r"x has type Broken, which cannot be converted to an array \(is broken\)"),
    "ragged": ([[0.0] * 6] * 9 + [[0.0]], "x is a ragged list"),
    "ragged, mixed": ([0.0, [0.0]], "x is a ragged list"),
    "ragged, first": ([[0.0], 0.0], "x is a ragged list"),
    "list of tensors": (list(T), r"x is a list of tensors: give one tensor, torch.stack\(x\)"),
    "list of arrays": (list(X), r"x is a list of type ndarray: give one array, as np.stack\(x\)"),
    "list of endless": ([Endless()] * N, "x is a list of type Endless"),
    "list of decimals": ([[Decimal(1)] * 6] * N, "x is a list of type Decimal"),
    "within itself": (within_itself(), "x is too long or too deeply nested a list"),
    "shared": (shared(), "x is too long or too deeply nested a list"),
    "sparse": (T.to_sparse(), r"x is a sparse tensor \(torch.sparse_coo\): give a dense one, x.to_dense\(\)"),
    "csr": (T.to_sparse_csr(), "x is a sparse tensor"),
    "quantized": (torch.quantize_per_tensor(T, 0.1, 0, torch.quint8), r"x is a quantized .*x.dequantize\(\)"),
    "meta": (T.to("meta"), "x is a tensor on the meta device"),
    "nested": (torch.nested.nested_tensor([T[0], T[1]]), "x is a nested tensor"),
}
DOORS = {
    "from_array": lambda vae, x: from_array(x),
    "encode": lambda vae, x: vae.encode(x),
    "reconstruct": lambda vae, x: vae.reconstruct(x),
    "log_prob": lambda vae, x: vae.log_prob(x, num_samples=2),
    "impute": lambda vae, x: vae.impute(x, num_samples=1, num_steps=1),
}


@pytest.mark.parametrize("kind", [*WRONG_DTYPES, *(f"not an array: {kind}" for kind in NOT_ARRAYS)])
def test_every_door_refuses_the_same_in_one_line(kind, small_vae):
    x, message = WRONG_DTYPES[kind] if kind in WRONG_DTYPES else NOT_ARRAYS[kind.removeprefix("not an array: ")]
    lines = set()
    for use in DOORS.values():
        with pytest.raises(BadInput, match=message) as error:
            use(small_vae, x)
        lines.add(str(error.value))
    assert len(lines) == 1
    assert "\n" not in lines.pop()


@pytest.mark.parametrize("kind", ["endless", "dataset of lists", "loader", "ragged", "sparse"])
def test_fit_refuses_what_is_not_an_array(kind):
    x, message = NOT_ARRAYS[kind]
    with pytest.raises(BadInput, match=message):
        pyro_vae.fit(x)


def as_memmap(x, path):
    np.save(path, x)
    return np.load(path, mmap_mode="r")


SAME = {
    "array": X,
    "float64": X.astype(np.float64),
    "longdouble": X.astype(np.longdouble),
    "other byte order": X.astype(">f4"),
    "backwards": X[::-1].copy()[::-1],
    "matrix": np.matrix(X),
    "columns": np.asfortranarray(X),
    "nothing masked": np.ma.masked_array(X, mask=False),
    "tensor": T,
    "gradient": T.clone().requires_grad_(),
    "transposed": T.T.contiguous().T,
    "lists": X.tolist(),
    "data set": TensorDataset(T),
    "tuples": tuple(map(tuple, X.tolist())),
    "lists of NumPy's": [list(row) for row in X],
    "converts": Converts(),
}


@pytest.mark.parametrize("kind", [*SAME, "map"])
def test_every_door_reads_the_same_numbers(kind, small_vae, tmp_path):
    x = as_memmap(X, tmp_path / "x.npy") if kind == "map" else SAME[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # as torch's, of arrays that cannot be written to
        assert torch.equal(from_array(x).train.in_memory().x, from_array(X).train.x)
        torch.testing.assert_close(small_vae.encode(x), small_vae.encode(T.double()), atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_floats_of_fewer_bits(dtype, small_vae):
    x = T.to(dtype)
    assert torch.equal(as_floats(x, "x"), x.float())
    assert torch.equal(small_vae.encode(x), small_vae.encode(x.double()))


def test_bytes_and_booleans_are_scaled_alike():
    grey = np.arange(256, dtype=np.uint8)
    scaled = torch.from_numpy(grey.astype(np.float32) / np.float32(255))
    for x in (grey, torch.from_numpy(grey), np.broadcast_to(grey, (2, 256))[0]):
        assert torch.equal(as_floats(x, "x"), scaled)
    for x in (grey > 99, torch.from_numpy(grey > 99)):
        assert as_floats(x, "x").tolist() == [0.0] * 100 + [1.0] * 156


def test_what_is_masked_is_missing():
    for dtype, value in (("u1", 1.0), ("?", 1.0), ("f8", 255.0)):
        x = as_floats(np.ma.masked_array(np.full(3, 255, dtype), mask=[False, True, False]), "x")
        assert x.isnan().tolist() == [False, True, False]
        assert x[0] == value
    assert as_floats(np.ma.masked_array([1, 2], mask=[False, True]), "x").isnan().tolist() == [False, True]
    assert as_floats(np.ma.masked_array(np.uint8([1, 2]), mask=True), "x").isnan().all()


def test_doubles_keep_their_digits(small_vae):
    x = X.astype(np.float64) * (1 - 1e-9)
    assert torch.equal(as_floats(x, "x", torch.float64), torch.from_numpy(x))
    assert small_vae.encode(x).dtype == torch.float64


def test_data_made_in_inference_mode_are_data():
    with torch.inference_mode():
        x = T.clone()
    train = from_array(x).train.x
    assert not train.is_inference()
    assert torch.equal(train, from_array(X).train.x)


def test_a_table_with_a_column_of_text():
    pandas = pytest.importorskip("pandas")
    table = pandas.DataFrame(X)
    assert torch.equal(from_array(table).train.x, from_array(X).train.x)
    for others in ({"text": "a"}, {"text": "a", "when": pandas.Timestamp("2020")}):
        message = rf'x has columns that are not numbers \({", ".join(others)}\): choose likelihood="table"'
        with pytest.raises(BadInput, match=message):
            from_array(table.assign(**others))


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (Endless(), "y has type Endless"),
        (TensorDataset(T), "y has type TensorDataset"),
        (list(torch.arange(N)), "y is a list of tensors"),
        (torch.arange(N).to_sparse(), "y is a sparse tensor"),
        ([[0], [0, 1]], "y is a ragged list"),
        (["a", 1] * (N // 2), "y must hold labels 0, 1, 2"),
    ],
)
def test_labels_come_through_the_same_door(y, message):
    with pytest.raises(BadInput, match=message):
        from_array(X, y=y)


def test_labels_may_be_lists_and_masked_ones_are_missing():
    assert from_array(X, y=[i % 2 for i in range(N)]).num_classes == 2
    data = from_array(X, y=np.ma.masked_array(np.arange(N) % 2, mask=np.arange(N) == 3))
    labels = torch.cat([split.y for split in (data.train, data.val, data.test)])
    assert (labels == -1).sum() == 1
    assert data.num_classes == 2
