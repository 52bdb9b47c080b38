"""Adam as in the code of Burda, Grosse & Salakhutdinov (2016), which their paper does not describe.

Their `optimizers.py` (https://github.com/yburda/iwae) starts the mean squared gradient at 1 instead of 0, for gradients
summed over a batch. Steps are short until the start is forgotten, after 1 / (1 − betas[1]) steps, if the gradients'
root mean square is smaller. +experiment=iwae_table1/vae_k1_as_coded reproduces it.
"""

from __future__ import annotations

import torch
from torch.optim import Optimizer


def start_squares(adam: Optimizer, first_square: float) -> None:
    """Initialize the state of parameters that have none, with `first_square` as the mean squared gradient."""
    for group in adam.param_groups:
        for p in group["params"]:
            if not adam.state[p]:
                adam.state[p] = {
                    "step": torch.zeros((), dtype=torch.float32, device=p.device),  # as in torch
                    "exp_avg": torch.zeros_like(p, requires_grad=False),
                    "exp_avg_sq": torch.full_like(p, first_square, requires_grad=False),
                }
