"""Evaluation in between: as the trained model will be used, and without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Within, dropout drops nothing and batch norm neither uses nor updates a batch's statistics."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:  # what its owner has frozen stays so
            part.training = True
