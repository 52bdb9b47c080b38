"""Data that are not those of a run are told apart; what another processor rounds is not."""

import json

import pytest
import torch

from pyro_vae.data import Dataset, Split, difference, fingerprint


def data(n=(50, 20, 20), labels=True, x=lambda x: x, y=lambda y: y, split="test"):
    generator = torch.Generator().manual_seed(0)
    splits = {}
    for name, size in zip(("train", "val", "test"), n, strict=True):
        images, classes = torch.rand(size, 1, 4, 4, generator=generator), torch.randint(3, (size,), generator=generator)
        if name == split:
            images, classes = x(images), y(classes)
        splits[name] = Split(images, classes if labels else None)
    return Dataset(**splits)


def test_the_same_data_are_the_same():
    saved = json.loads(json.dumps(fingerprint(data())))  # plain containers
    assert difference(saved, fingerprint(data())) is None
    assert difference(saved, fingerprint(data(x=lambda x: x + 1e-4 * torch.randn_like(x)))) is None


def test_what_counts_is_the_spread_not_the_level():
    """Of temperatures in Kelvin, say."""
    before = fingerprint(data(x=lambda x: 300 + x))
    assert difference(before, fingerprint(data(x=lambda x: 300 + x))) is None
    assert "split=test" in str(difference(before, fingerprint(data(x=lambda x: 300 + x.flip(0)))))


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize(
    "x", [lambda x: x.flip(0), lambda x: x.flip(-1), lambda x: 1 - x, lambda x: x.roll(1, 0)], ids=range(4)
)
def test_other_held_out_data(split, x):
    line = difference(fingerprint(data()), fingerprint(data(x=x, split=split)))
    assert f"split={split}" in str(line)


def test_other_sizes_and_labels():
    before = fingerprint(data())
    assert "50 datapoints in split=train, 51 now" in difference(before, fingerprint(data((51, 20, 20))))
    assert "other labels in split=test" in difference(before, fingerprint(data(y=lambda y: y.flip(0))))
    assert "other labels in split=val" in difference(before, fingerprint(data(labels=False)))


def test_empty_splits_and_those_without_labels():
    before = fingerprint(data((50, 0, 20), labels=False))
    assert difference(before, fingerprint(data((50, 0, 20), labels=False))) is None
    assert "20 datapoints in split=test, 21 now" in difference(before, fingerprint(data((50, 0, 21), labels=False)))
