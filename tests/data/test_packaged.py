import pytest
import torch

from pyro_vae.data import digits, mnist5k
from pyro_vae.data.grid import Grid
from pyro_vae.errors import BadInput


@pytest.mark.parametrize(
    ("load", "shape", "sizes"),
    [(mnist5k, (1, 28, 28), (4000, 500, 500)), (digits, (1, 8, 8), (1437, 180, 180))],
)
def test_sizes_range_and_classes(load, shape, sizes):
    data = load()
    splits = [data.train, data.val, data.test]
    assert data.data_shape == shape
    assert tuple(len(s) for s in splits) == sizes
    assert min(s.x.min() for s in splits) == 0
    assert max(s.x.max() for s in splits) == 1
    assert 0.1 < data.train.x.mean() < 0.4
    assert data.num_levels == (256 if load is mnist5k else 17)
    assert data.num_classes == 10
    for split in splits:
        assert Grid(data.num_levels).check(split.x).all()
        counts = split.y.bincount()
        assert len(counts) == 10
        if load is mnist5k:
            assert (counts == len(split) // 10).all()


def test_counts_of_digits_are_the_same_digits():
    grey, counts = digits(), digits(counts=True)
    assert torch.equal(counts.train.x, 16 * grey.train.x)
    assert torch.equal(counts.train.y, grey.train.y)
    assert torch.equal(counts.train.x, counts.train.x.round())
    with pytest.raises(BadInput, match=r"binarize=dynamic needs values in \[0, 1\].* binarize=none"):
        digits(counts=True, binarize="dynamic")
    with pytest.raises(BadInput, match="dequantize=true needs values k/16"):
        digits(counts=True, dequantize=True)
    with pytest.raises(BadInput, match="counts=abc"):
        digits(counts="abc")


def test_can_be_dequantized():
    grey, data = digits(), digits(dequantize=True)
    assert torch.equal((17 * data.test.x).floor(), 16 * grey.test.x)
