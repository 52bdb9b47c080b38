import pytest
import torch

from pyro_vae.data.grid import Grid
from pyro_vae.errors import BadInput


@pytest.mark.parametrize("num_levels", [2, 17, 48, 256, 65536])
def test_knows_its_values_in_float32(num_levels):
    grid, k = Grid(num_levels), torch.arange(num_levels)
    x = k / (num_levels - 1)
    assert grid.check(x).all()
    assert torch.equal(grid.index(x), k)
    between = (k + 0.5) / (num_levels - 1)
    assert not grid.check(between).any()
    assert not grid.check(torch.tensor([-1, num_levels]) / (num_levels - 1)).any()
    assert not grid.check(torch.tensor([float("nan"), float("inf")])).any()


@pytest.mark.parametrize("num_levels", [1, 0, -2, 2.5, True, "256", None])
def test_refuses_fewer_than_two_levels(num_levels):
    with pytest.raises(BadInput, match=f"num_levels={num_levels!r} must be an integer of at least 2"):
        Grid(num_levels)


def test_refuses_more_levels_than_images_have():
    with pytest.raises(BadInput, match=r"num_levels=65537 must be at most 65536"):
        Grid(2**16 + 1)
