import pytest

from pyro_vae.data import digits, mnist5k


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
    for split in splits:
        counts = split.y.bincount()
        assert len(counts) == 10
        if load is mnist5k:
            assert (counts == len(split) // 10).all()
