"""Models p(mask | x) of which entries are missing, one a file, for data that are not missing at random.

`Missingness` is their contract; derive your own from it.
"""

from pyro_vae.missingness.linear import Linear
from pyro_vae.missingness.missingness import Missingness
from pyro_vae.missingness.self_masking import SelfMasking

__all__ = ["Linear", "Missingness", "SelfMasking"]
