"""Data sets as tensors, in memory or streamed from disk; one function for each file in conf/data/."""

from pyro_vae.data.arrays import array, from_array
from pyro_vae.data.dataset import Dataset
from pyro_vae.data.fingerprint import difference, fingerprint
from pyro_vae.data.folder import image_folder
from pyro_vae.data.frames import to_x
from pyro_vae.data.packaged import digits, mnist5k
from pyro_vae.data.simulated import ring
from pyro_vae.data.split import Split, Stored
from pyro_vae.data.table import from_frame, table
from pyro_vae.data.vision import fashion_mnist, kmnist, mnist, omniglot

__all__ = [
    "Dataset",
    "Split",
    "Stored",
    "array",
    "difference",
    "digits",
    "fashion_mnist",
    "fingerprint",
    "from_array",
    "from_frame",
    "image_folder",
    "kmnist",
    "mnist",
    "mnist5k",
    "omniglot",
    "ring",
    "table",
    "to_x",
]
