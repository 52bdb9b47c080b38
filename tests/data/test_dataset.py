import math

import pytest
import torch

from pyro_vae.data.dataset import Dataset, Split, three_way_split
from pyro_vae.errors import BadInput


def grey(n=400, seed=0):
    return torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(seed))


def make(binarize, **kwargs):
    return Dataset(Split(grey(seed=1)), Split(grey(seed=2)), Split(grey(seed=3)), binarize=binarize, **kwargs)


def is_binary(x):
    return bool(((x == 0) | (x == 1)).all())


def test_dynamic_draws_training_batches_anew_around_the_grey_values():
    data, index = make("dynamic"), torch.tensor([3, 5])
    draws = torch.stack([data.batch(index) for _ in range(2000)])
    assert is_binary(draws)
    p = data.train.x[index]
    se = (p * (1 - p) / 2000).sqrt()
    assert ((draws.mean(0) - p).abs() < 4.5 * se).all()


@pytest.mark.parametrize("binarize", ["dynamic", "static"])
def test_evaluation_sets_are_fixed_by_their_own_seed(binarize):
    torch.manual_seed(1)
    first = make(binarize)
    torch.manual_seed(2)
    second = make(binarize)
    other = make(binarize, eval_seed=7)
    for name in ("val", "test"):
        assert is_binary(first.split(name).x)
        assert torch.equal(first.split(name).x, second.split(name).x)
        assert not torch.equal(first.split(name).x, other.split(name).x)
    assert is_binary(first.split("train").x)
    assert torch.equal(first.split("train").x, second.split("train").x)
    assert not torch.equal(first.val.x, make("none").val.x.round())


def test_splits_have_noise_of_their_own_and_train_follows_the_seed():
    same = Split(torch.full((400, 4), 0.5))
    data, other = (Dataset(same, same, same, "dynamic", eval_seed=s) for s in (0, 7))
    assert not torch.equal(data.val.x, data.test.x)
    assert not torch.equal(data.split("train").x, data.val.x)
    assert not torch.equal(data.split("train").x, other.split("train").x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_draws_do_not_depend_on_the_device():
    assert torch.equal(make("dynamic").to("cuda").split("train").x.cpu(), make("dynamic").split("train").x)


def test_static_is_one_draw():
    data, index = make("static"), torch.arange(400)
    assert torch.equal(data.batch(index), data.batch(index))
    n = data.train.x.numel()
    assert abs(data.train.x.mean() - grey(seed=1).mean()) < 4.5 * 0.5 / math.sqrt(n)


def test_threshold_and_none():
    assert torch.equal(make("threshold").train.x, (grey(seed=1) > 0.5).float())
    assert torch.equal(make("none").batch(torch.arange(4)), grey(seed=1)[:4])


def test_splits_are_disjoint_complete_and_stratified():
    x = torch.arange(1000.0).unsqueeze(1)
    y = torch.arange(1000) % 10
    splits = three_way_split(x, y, 0.1, 0.1, seed=0)
    assert [len(s) for s in splits] == [800, 100, 100]
    assert torch.equal(torch.cat([s.x for s in splits]).sort(0).values, x)
    for split in splits:
        assert (split.y.bincount() == len(split) // 10).all()
        assert torch.equal(split.x.squeeze(1).long() % 10, split.y)
    assert not torch.equal(splits[0].x, three_way_split(x, y, 0.1, 0.1, seed=1)[0].x)
    assert torch.equal(splits[0].x, three_way_split(x, y, 0.1, 0.1, seed=0)[0].x)


def test_first_datapoints():
    split = Split(grey(), torch.arange(400))
    assert torch.equal(split.first(3).x, split.x[:3])
    assert len(split.first(None)) == 400
    for n in (0, 401, -1, 1.5, True, "abc"):
        with pytest.raises(BadInput, match=f"num_data={n}"):
            split.first(n)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make("soft"), "data.binarize=soft.*dynamic, static, threshold, none"),
        (lambda: Dataset(Split(grey() + 1), Split(grey()), Split(grey()), "dynamic"), r"values in \[0, 1\]"),
        (lambda: make("none").split("eval"), "split=eval.*train, val, test"),
        (lambda: three_way_split(grey(5), None, 0.1, 0.1, 0), "5 datapoints"),
        (lambda: three_way_split(grey(50), None, 0.5, 0.5, 0), "data.val_fraction=0.5"),
        (lambda: three_way_split(grey(50), None, 0.5, "abc", 0), "data.test_fraction=abc"),
        (lambda: make("none", eval_seed="abc"), "data.eval_seed=abc"),
        (lambda: three_way_split(grey(50), None, -0.5, 0.5, 0), "data.val_fraction=-0.5"),
    ],
)
def test_refuses_bad_settings(make, message):
    with pytest.raises(BadInput, match=message):
        make()
