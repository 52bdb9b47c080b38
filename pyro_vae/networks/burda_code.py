"""Initial weights as in the code of Burda, Grosse & Salakhutdinov (2016), which their paper does not describe.

Their `nnet.py` (https://github.com/yburda/iwae) draws each layer from a new generator with the same seed, so layers of
the same shape start with equal weights, such as the two that return mean and log scale.
+experiment=iwae_table1/vae_k1_as_coded reproduces it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

SEED = 123


def weights_alike(num_out: int, num_in: int) -> Tensor:
    """Return a layer's weights `[num_out, num_in]`, U(±√(6 / (num_in + num_out))) from a fixed seed."""
    bound = math.sqrt(6 / (num_in + num_out))
    return torch.from_numpy(np.random.RandomState(SEED).uniform(-bound, bound, (num_in, num_out)).T)
