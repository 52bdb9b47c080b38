"""Accuracy of a semi-supervised VAE's classifier, beside one trained on the labelled data alone."""

from __future__ import annotations

import logging
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from pyro_vae.data import Dataset, Split
from pyro_vae.programs.progress import progress
from pyro_vae.programs.random_state import callers_generators, set_seed
from pyro_vae.runs.build import build_vae
from pyro_vae.vae import VAE, SemiSupervisedVAE

log = logging.getLogger(__name__)

STEPS, BATCH_SIZE, LEARNING_RATE = 1000, 100, 1e-3
"""Training of the supervised classifier by Adam: enough to fit a few hundred labels."""


def classification(vae: VAE, data: Dataset, config: DictConfig) -> dict[str, Any] | None:
    """Return the section `classification` of results.json; None if there is nothing to classify.

    It holds the share of labelled test datapoints whose most probable class is their label, `accuracy`, that of a
    classifier with the same network trained on the labelled data alone, `accuracy_supervised`, and the number of
    labels in the training and in the test set.
    """
    y = data.test.y
    if not isinstance(vae, SemiSupervisedVAE) or y is None or not (y >= 0).any():
        return None
    test = data.test.at((y >= 0).nonzero().squeeze(1))
    alone = supervised(vae, data, config)
    labels = data.train.y
    found = {
        "accuracy": accuracy(vae, test),
        "accuracy_supervised": accuracy(alone, test),
        "num_labels": 0 if labels is None else int((labels >= 0).sum()),
        "num_data": len(test),
    }
    log.info(
        "accuracy on %(num_data)d test labels: %(accuracy).3f, and %(accuracy_supervised).3f of the same network "
        "trained on the %(num_labels)d labelled datapoints alone", found,
    )  # fmt: skip
    return found


def accuracy(vae: SemiSupervisedVAE, split: Split) -> float:
    """Return the share of datapoints whose most probable class is their label."""
    assert split.y is not None
    return (vae.predict_class(split.x).argmax(1) == split.y).double().mean().item()


@callers_generators()
def supervised(vae: SemiSupervisedVAE, data: Dataset, config: DictConfig) -> SemiSupervisedVAE:
    """Return a VAE like this one whose classifier alone is trained, on the labelled training data."""
    set_seed(config.seed)
    other = build_vae(config, data.data_shape, data.num_classes, data.missing, data.covariates).to(data.device)
    assert isinstance(other, SemiSupervisedVAE)
    assert data.train.y is not None
    other.standardize.load_state_dict(vae.standardize.state_dict())
    labelled = (data.train.y >= 0).nonzero().squeeze(1).cpu()
    optimizer = torch.optim.Adam(other.classifier.parameters(), LEARNING_RATE)
    with progress("training a classifier on the labelled data alone", STEPS, "step") as tick:
        for _ in range(STEPS):
            x, y = data.batch(labelled[torch.randperm(len(labelled))[:BATCH_SIZE]])
            optimizer.zero_grad()
            _loss(other, x, y).backward()
            optimizer.step()
            tick(1)
    return other.eval()


def _loss(vae: SemiSupervisedVAE, x: Tensor, y: Tensor | None) -> Tensor:
    assert y is not None
    return nn.functional.cross_entropy(vae.classifier(vae.standardize(x)), y)
