import numpy as np
import pytest
import torch

from pyro_vae.data import array, from_array
from pyro_vae.data.values import as_floats
from pyro_vae.errors import BadInput

X = np.arange(200, dtype=np.float32).reshape(50, 2, 2) / 200


def everything(data):
    return torch.cat([data.train.in_memory().x, data.val.x, data.test.x]).flatten().sort().values.numpy()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_npy_of_floats(tmp_path, dtype):
    np.save(tmp_path / "x.npy", X.astype(dtype))
    data = array(str(tmp_path / "x.npy"))
    assert data.data_shape == (2, 2)
    assert data.train.in_memory().x.dtype == torch.float32
    np.testing.assert_allclose(everything(data), X.flatten(), atol=1e-3)


def test_bytes_are_scaled_and_booleans_are_zeros_and_ones(tmp_path):
    np.save(tmp_path / "x.npy", np.array([[0, 51, 255]] * 20, dtype=np.uint8))
    data = array(str(tmp_path / "x.npy"))
    torch.testing.assert_close(data.train.in_memory().x[0], torch.tensor([0.0, 0.2, 1.0]))
    assert set(everything(from_array(X > 0.5))) == {0.0, 1.0}


def test_npz_by_key(tmp_path):
    np.savez(tmp_path / "two.npz", a=X, b=X + 1)
    np.savez(tmp_path / "one.npz", a=X)
    np.testing.assert_allclose(everything(array(str(tmp_path / "two.npz"), key="b")), X.flatten() + 1)
    np.testing.assert_allclose(everything(array(str(tmp_path / "one.npz"))), X.flatten())
    with pytest.raises(BadInput, match="key=c is not an entry.*a, b"):
        array(str(tmp_path / "two.npz"), key="c")
    with pytest.raises(BadInput, match="two.npz holds 2 arrays: give key=NAME, one of a, b"):
        array(str(tmp_path / "two.npz"))


def test_bytes_of_0_and_1_are_no_grey_values(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2, (50, 6), dtype=np.uint8)
    np.save(tmp_path / "x.npy", bits)
    for make in (lambda: from_array(bits), lambda: from_array(np.load(tmp_path / "x.npy", mmap_mode="r"))):
        with pytest.raises(BadInput, match=r"x holds bytes of 0 and 1.*divided by 255.*astype\(bool\)"):
            make()
    assert from_array(bits.astype(bool)).train.x.unique().tolist() == [0, 1]
    assert not from_array(0 * bits).train.x.any()


def test_labels_by_key_follow_their_datapoints_and_stratify(tmp_path):
    y = np.arange(50) % 5
    for dtype in (np.int64, np.uint8, np.float32):
        np.savez(tmp_path / "x.npz", x=X, y=y.astype(dtype))
        data = array(str(tmp_path / "x.npz"), label_key="y")
        assert data.num_classes == 5
        for split in (data.train, data.val, data.test):
            assert split.y.dtype == torch.int64
            assert torch.equal((split.x[:, 0, 0] * 50).round().long() % 5, split.y)
            assert (split.y.bincount() == len(split) // 5).all()


def test_the_split_without_labels_is_what_it_was():
    order = torch.randperm(50, generator=torch.Generator().manual_seed(3))
    assert torch.equal(from_array(X, split_seed=3).train.x, torch.from_numpy(X)[order[:40]])


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.arange(49), r"y has shape \[49\]: it must be \[50\], one label"),
        (np.zeros((50, 1), int), r"y has shape \[50, 1\]"),
        (np.arange(50) - 2, "y must hold labels 0, 1, 2"),
        (np.arange(50) / 2, "y must hold labels 0, 1, 2"),
        (np.full(50, np.nan), "all labels are missing"),
        (np.full(50, np.inf), "y must hold labels 0, 1, 2"),
        (np.full((50, 1), "a"), r"y has shape \[50, 1\]"),
    ],
)
def test_refuses_labels_that_are_none(y, message, tmp_path):
    with pytest.raises(BadInput, match=message):
        from_array(X, y=y)
    np.savez(tmp_path / "x.npz", x=X, labels=y)
    with pytest.raises(BadInput, match=message.replace("y ", "label_key=labels ")):
        array(str(tmp_path / "x.npz"), key="x", label_key="labels")


def test_refuses_label_keys_that_are_not_there(tmp_path):
    np.savez(tmp_path / "x.npz", x=X)
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(BadInput, match="label_key=y is not an entry of .*: choose one of x"):
        array(str(tmp_path / "x.npz"), label_key="y")
    with pytest.raises(BadInput, match="label_key=y: .* a single unnamed array: omit label_key"):
        array(str(tmp_path / "x.npy"), label_key="y")


def test_fractions():
    data = from_array(X, val_fraction=0.2, test_fraction=0.0)
    assert [len(data.train), len(data.val), len(data.test)] == [40, 10, 0]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.where(X > 0.9, np.inf, X), "x holds 19 values that are Inf .*: set missing ones to NaN"),
        (np.full((50, 2), 1e300), "values that are Inf"),  # overflows float32
        (X.astype(np.complex64), "dtype complex64"),
        (np.full((50, 2), "a"), "dtype <U1"),
        (np.zeros((0, 4), np.float32), "empty"),
        (np.zeros((4, 0), np.float32), "empty"),
        (np.zeros(10, np.float32), r"shape \[10\]"),
        (np.float32(1), r"shape \[\]"),
        (X[:3], "3 datapoints"),
    ],
)
def test_refuses_arrays_that_cannot_be_used(x, message):
    with pytest.raises(BadInput, match=message):
        from_array(x)


def test_refuses_files_that_cannot_be_used(tmp_path):
    path = tmp_path / "x.npy"
    with pytest.raises(BadInput, match="path is missing"):
        array(None)
    with pytest.raises(BadInput, match=r"x\.npy: no such file"):
        array(str(path))
    np.save(path, X)
    with pytest.raises(BadInput, match="key=a"):
        array(str(path), key="a")
    whole = path.read_bytes()
    for content in (b"", b"hello", whole[:40], whole[:-1]):
        path.write_bytes(content)
        with pytest.raises(BadInput, match="not a readable .npy or .npz"):
            array(str(path))


def test_nothing_in_a_file_is_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    np.save(tmp_path / "x.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    with pytest.raises(BadInput):
        array(str(tmp_path / "x.npy"))
    assert not (tmp_path / "owned").exists()


def test_masked_values_are_missing():
    x = np.ma.masked_array(np.full((50, 3), 255, np.uint8), mask=np.arange(150).reshape(50, 3) == 4)
    with pytest.raises(
        BadInput, match="x holds 1 values that are NaN or Inf: .* or set missing=auto if NaN is missing"
    ):
        from_array(x, missing=False)
    known = as_floats(x, "x")
    assert known[1, 1].isnan()
    assert (known.flatten()[np.arange(150) != 4] == 1).all()  # as bytes are, divided by 255
    assert set(everything(from_array(np.ma.masked_array(X > 0.5, mask=False)))) == {0.0, 1.0}


def test_missing_entries_stay_missing(tmp_path):
    holes = np.random.default_rng(0).random(X.shape) < 0.2
    x = np.where(holes, np.nan, X)
    assert from_array(x).missing
    assert not from_array(X).missing
    assert from_array(X, missing=True).missing
    assert from_array(X, validation=(x, None)).missing
    assert from_array([[None, 0.5], *[[0.1, 0.2]] * 20]).missing
    with pytest.raises(BadInput, match="missing=perhaps"):
        from_array(X, missing="perhaps")
    for options in ({"binarize": "dynamic"}, {"binarize": "static"}, {"binarize": "threshold"}):
        data = from_array(x, **options)
        batch, _ = data.batch(torch.arange(len(data.train)))
        plain, _ = from_array(x).batch(torch.arange(len(data.train)))
        assert torch.equal(batch.isnan(), plain.isnan())
        assert set(batch[~batch.isnan()].tolist()) == {0.0, 1.0}
    grey = from_array(np.where(holes, np.nan, (X * 255).round() / 255), dequantize=True)
    assert torch.equal(grey.batch(torch.arange(9))[0].isnan(), from_array(x).batch(torch.arange(9))[0].isnan())
    np.save(tmp_path / "x.npy", x.astype(np.float32))  # streamed: nothing looks for NaN in advance
    data = array(str(tmp_path / "x.npy"), missing=True)
    assert sum(int(rows.isnan().sum()) for rows in data.train.in_order()) > 0
    with pytest.raises(BadInput, match="set data.missing=true if NaN is missing"):
        list(array(str(tmp_path / "x.npy"), missing=False).train.in_order())


def test_what_is_too_large_for_float32_is_called_that():
    with pytest.raises(BadInput, match=r"100 values that are Inf \(or too large for float32: rescale them\)"):
        from_array(np.full((50, 2), 1e300))


def test_names_that_look_like_numbers(tmp_path):
    np.savez(tmp_path / "x.npz", **{"0": X, "1": np.arange(50) % 2})
    data = array(str(tmp_path / "x.npz"), key=0, label_key=1)
    assert data.num_classes == 2
    np.savez(tmp_path / "y.npz", y=np.arange(50) % 2)
    with pytest.raises(BadInput, match="y.npz holds 0 arrays beside y"):
        array(str(tmp_path / "y.npz"), label_key="y")


def test_arrays_that_single_precision_does_not_resolve_are_told_of(caplog):
    x = np.random.default_rng(0).normal(size=(30, 3))
    for offset, told in ((1e4, False), ([0, 1e9, 0], True)):
        caplog.clear()
        from_array(x + offset)
        assert any("in 1 of 3 dimensions, such as 1, from 99999999" in message for message in caplog.messages) == told
    caplog.clear()
    from_array(np.where(x > 0, 1 / 3, 1e9))  # which rounds, but varies more
    assert not caplog.messages
