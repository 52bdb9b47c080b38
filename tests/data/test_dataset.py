import math

import pytest
import torch

from pyro_vae.data.binarize import bernoulli, thresholds
from pyro_vae.data.dataset import Dataset, Split
from pyro_vae.data.split import split_indices, three_way_split
from pyro_vae.errors import BadInput


def grey(n=400, seed=0):
    return torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(seed))


def make(binarize, **kwargs):
    return Dataset(Split(grey(seed=1)), Split(grey(seed=2)), Split(grey(seed=3)), binarize=binarize, **kwargs)


def is_binary(x):
    return bool(((x == 0) | (x == 1)).all())


def test_dynamic_draws_training_batches_anew_around_the_grey_values():
    data, index = make("dynamic"), torch.tensor([3, 5])
    draws = torch.stack([data.batch(index)[0] for _ in range(2000)])
    assert is_binary(draws)
    p = data.train.x[index]
    se = (p * (1 - p) / 2000).sqrt()
    assert ((draws.mean(0) - p).abs() < 4.5 * se).all()


@pytest.mark.parametrize(("binarize", "names"), [("static", ["train", "val", "test"]), ("dynamic", ["val", "test"])])
def test_fixed_draws_have_the_grey_values_as_means(binarize, names):
    N, p = 20_000, torch.tensor([0.05, 0.5, 0.9])
    split = Split(p.repeat(N, 1))
    data = Dataset(split, split, split, binarize=binarize)
    for name in names:
        x = data.split(name).x
        assert is_binary(x)
        assert ((x.mean(0) - p).abs() < 4.5 * (p * (1 - p) / N).sqrt()).all()


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
    assert torch.equal(data.batch(index)[0], data.batch(index)[0])
    n = data.train.x.numel()
    assert abs(data.train.x.mean() - grey(seed=1).mean()) < 4.5 * 0.5 / math.sqrt(n)


def test_threshold_and_none():
    assert torch.equal(make("threshold").train.x, (grey(seed=1) > 0.5).float())
    assert torch.equal(make("none").batch(torch.arange(4))[0], grey(seed=1)[:4])


def levels(num_levels, n=400, seed=0):
    k = torch.randint(num_levels, (n, 1, 2, 2), generator=torch.Generator().manual_seed(seed))
    return k / (num_levels - 1)


def make_dequantized(num_levels=4, **kwargs):
    splits = (Split(levels(num_levels, seed=s)) for s in (1, 2, 3))
    return Dataset(*splits, num_levels=num_levels, dequantize=True, **kwargs)


def test_dequantization_spreads_each_level_over_its_bin():
    data, index = make_dequantized(), torch.tensor([3, 5])
    draws = torch.stack([data.batch(index)[0] for _ in range(2000)])
    k = (data.train.x[index] * 3).round()
    u = 4 * draws - k
    assert (draws > 0).all()
    assert (draws < 1).all()
    assert (u > -1e-5).all()
    assert (u < 1 + 1e-5).all()
    assert ((u.mean(0) - 0.5).abs() < 4.5 * math.sqrt(1 / 12 / 2000)).all()
    assert ((u.square().mean(0) - 1 / 3).abs() < 4.5 * math.sqrt(4 / 45 / 2000)).all()


def test_dequantized_bytes_keep_to_the_open_interval(monkeypatch):
    x = torch.tensor([[0.0, 1.0]])
    for u in (0.0, 1 - 2**-24):
        monkeypatch.setattr(torch, "rand", lambda *shape, **kwargs: torch.full(*shape, u))  # noqa: B023
        drawn = Dataset(Split(x), Split(x), Split(x), dequantize=True).val.x
        assert (drawn > 0).all()
        assert (drawn < 1).all()
        assert ((256 * drawn).floor() == torch.tensor([[0.0, 255.0]])).all()


def test_dequantized_evaluation_sets_are_fixed_by_their_own_seed():
    torch.manual_seed(1)
    first = make_dequantized()
    torch.manual_seed(2)
    second, other = make_dequantized(), make_dequantized(eval_seed=7)
    for name in ("train", "val", "test"):
        assert torch.equal(first.split(name).x, second.split(name).x)
        assert not torch.equal(first.split(name).x, other.split(name).x)
        assert len(first.split(name).x.unique()) > 1000
    index = torch.arange(4)
    assert not torch.equal(first.batch(index)[0], first.batch(index)[0])
    assert (first.num_levels, first.dequantize) == (4, True)


def test_batches_carry_their_labels():
    x, y = torch.arange(10.0).unsqueeze(1), torch.arange(10) % 4
    data = Dataset(Split(x[:6], y[:6]), Split(x[6:8], y[6:8]), Split(x[8:9], y[8:9]))
    batch = data.batch(torch.tensor([5, 0, 2]))
    assert torch.equal(batch[0].squeeze(1), torch.tensor([5.0, 0, 2]))
    assert torch.equal(batch[1], torch.tensor([1, 0, 2]))
    assert make("dynamic").batch(torch.tensor([1]))[1] is None


def test_num_classes_is_that_of_all_splits():
    x = torch.zeros(4, 1)
    splits = [Split(x[:2], torch.tensor(y)) for y in ([0, 1], [2, 0], [5, 1])]
    assert Dataset(*splits).num_classes == 6
    assert Dataset(*splits[:2], Split(x[:0], torch.tensor([]).long())).num_classes == 3
    assert make("none").num_classes is None


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
        (lambda: make("soft"), "binarize=soft.*dynamic, static, threshold, none"),
        (lambda: Dataset(Split(grey() + 1), Split(grey()), Split(grey()), "dynamic"), r"values in \[0, 1\]"),
        (lambda: make("none").split("eval"), "split=eval.*train, val, test"),
        (lambda: three_way_split(grey(5), None, 0.1, 0.1, 0), "5 datapoints"),
        (lambda: three_way_split(grey(50), None, 0.5, 0.5, 0), "val_fraction=0.5"),
        (lambda: three_way_split(grey(50), None, 0.5, "abc", 0), "test_fraction=abc"),
        (lambda: make("none", eval_seed="abc"), "eval_seed=abc"),
        (lambda: make("none", num_levels=1), "num_levels=1"),
        (lambda: make("none", dequantize="abc"), "dequantize=abc must be true or false"),
        (lambda: make("dynamic", dequantize=True), "dequantize=true does not go with binarize=dynamic: use"),
        (lambda: make("none", dequantize=True), r"dequantize=true needs values k/255.*\d+ values.*num_levels"),
        (lambda: three_way_split(grey(50), None, -0.5, 0.5, 0), "val_fraction=-0.5"),
    ],
)
def test_refuses_bad_settings(make, message):
    with pytest.raises(BadInput, match=message):
        make()


def test_bernoulli_draws_with_the_probabilities_it_is_given():
    p = torch.tensor([0.0, 1e-3, 0.1, 0.5, 0.9, 1.0])
    draws = bernoulli(thresholds(p.repeat(1_000_001, 1)))  # no multiple of four: the last bits are cut off
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert bernoulli(thresholds(p), torch.float64).dtype == torch.float64
    mean, se = draws.double().mean(0), (p * (1 - p) / len(draws)).sqrt()
    assert ((mean - p).abs() <= 4.5 * se + 2**-17).all()  # p is rounded to 1/65536
    assert (mean[0], mean[-1]) == (0, 1)  # never and always, not nearly
    correlations = torch.corrcoef(draws[:, 1:-1].T) - torch.eye(4)
    assert (correlations.abs() < 4.5 / len(draws) ** 0.5).all()


def test_bernoulli_is_exact_to_a_65536th():
    """The two thresholds around 1/2: all 65,536 values of the 16 bits once."""
    every = torch.arange(-32768, 32768, dtype=torch.int16).view(torch.int64)
    for p, share in ((0.5, 0.5), (0.5 + 2**-16, 0.5 + 2**-16), (0.5 + 2**-18, 0.5)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "random_", lambda self, *limits: self.copy_(every))
            assert bernoulli(thresholds(torch.full((65536,), p, dtype=torch.float64))).mean() == share


def test_splits_are_stratified_as_a_loop_over_the_classes_would():
    y = torch.tensor([5, 5, 0, 2, 2, 2, 9, 0, 5, 2] * 13)[torch.randperm(130)]
    n = len(y)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(4)).tolist()
    members = {label: [i for i in order if y[i] == label] for label in set(y.tolist())}
    rank = {i: (k + 0.5) / len(of) for of in members.values() for k, i in enumerate(of)}
    expected = sorted(order, key=rank.__getitem__)  # stable
    assert torch.cat(split_indices(n, y, 0.2, 0.1, seed=4)).tolist() == expected


def test_as_many_classes_as_datapoints_are_quickly_stratified():
    train, val, test = split_indices(200_000, torch.arange(200_000), 0.1, 0.1, seed=0)  # a loop would take an hour
    assert (len(train), len(val), len(test)) == (160_000, 20_000, 20_000)
