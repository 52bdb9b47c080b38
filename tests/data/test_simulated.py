import math

import numpy as np
import pytest
import torch
from scipy import stats

from pyro_vae.data import ring
from pyro_vae.errors import BadInput


def everything(data):
    return torch.cat([data.train.x, data.val.x, data.test.x])


def test_ring_has_its_radius_and_every_direction():
    data = ring()
    assert [len(s) for s in (data.train, data.val, data.test)] == [4000, 500, 500]
    assert data.data_shape == (2,)
    assert data.num_classes is None
    x = everything(data).numpy()
    # x = z/10 + z/|z|: a radius of 1 + |z|/10, |z| being Rayleigh, and an angle that is uniform
    assert stats.kstest(10 * (np.linalg.norm(x, axis=1) - 1), stats.rayleigh.cdf).pvalue > 1e-4
    assert stats.kstest(np.arctan2(x[:, 1], x[:, 0]), stats.uniform(-math.pi, 2 * math.pi).cdf).pvalue > 1e-4


def test_noise_is_added_to_the_same_ring():
    noise = (everything(ring(noise=0.2)) - everything(ring())).flatten() / 0.2
    assert stats.kstest(noise.numpy(), stats.norm.cdf).pvalue > 1e-4


def test_ring_is_the_same_in_every_run():
    torch.manual_seed(1)
    first = ring(num_data=50, noise=0.1)
    torch.manual_seed(2)
    assert torch.equal(first.train.x, ring(num_data=50, noise=0.1).train.x)
    other = ring(num_data=50, noise=0.1, split_seed=1)
    assert not torch.equal(first.train.x, other.train.x)
    assert torch.equal(everything(first).sort(0).values, everything(other).sort(0).values)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_data": 0}, "num_data=0"),
        ({"noise": -1}, "noise=-1"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"noise": "abc"}, "noise=abc"),
        ({"binarize": "dynamic"}, "binarize=dynamic needs values"),
        ({"dequantize": True}, "dequantize=true needs values k/255"),
    ],
)
def test_refuses_bad_settings(settings, message):
    with pytest.raises(BadInput, match=message):
        ring(**settings)
