"""Data sets -> tensors in memory; each function is the `_target_` of a file in conf/data/."""

from pyro_vae.data.arrays import array, from_array
from pyro_vae.data.dataset import Dataset, Split
from pyro_vae.data.packaged import digits, mnist5k
from pyro_vae.data.simulated import ring
from pyro_vae.data.vision import fashion_mnist, kmnist, mnist, omniglot

__all__ = [
    "Dataset",
    "Split",
    "array",
    "digits",
    "fashion_mnist",
    "from_array",
    "kmnist",
    "mnist",
    "mnist5k",
    "omniglot",
    "ring",
]
