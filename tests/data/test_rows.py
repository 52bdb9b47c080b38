"""Datapoints know their row in the file or array that they come from."""

import numpy as np
import pytest
import torch

from pyro_vae.data import Dataset, Split, array, from_array

X = np.random.default_rng(0).random((60, 3)).astype(np.float32)


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("options", [{}, {"binarize": "dynamic"}, {"binarize": "threshold"}])
def test_rows_lead_back_to_the_array(tmp_path, kind, options):
    np.save(tmp_path / "x.npy", X)
    data = (array(str(tmp_path / "x.npy"), **options) if kind == "disk" else from_array(X, **options)).to("cpu")
    parts = {name: data.split(name, size) for name, size in data.sizes.items()}
    assert sorted(torch.cat([part.rows for part in parts.values()]).tolist()) == list(range(60))
    for part in parts.values():
        of_array = torch.from_numpy(X)[part.rows]
        if not options:
            assert torch.equal(part.x, of_array)
        elif options["binarize"] == "threshold":
            assert torch.equal(part.x, (of_array > 0.5).float())
        assert torch.equal(part.first(3).rows, part.rows[:3])
        assert torch.equal(part.share().rows, part.rows)
    assert torch.equal(data.split("train", 5).rows, data.split("train", 20).rows[:5])


def test_rows_of_given_data():
    split = Split(torch.zeros(4, 2))
    assert split.rows.tolist() == [0, 1, 2, 3]
    chosen = split.at(torch.tensor([3, 1]))
    assert chosen.rows.tolist() == [3, 1]
    assert chosen.at(torch.tensor([1])).map(torch.exp).to("cpu").rows.tolist() == [1]
    assert Dataset(split, split, chosen, binarize="static").test.rows.tolist() == [3, 1]
