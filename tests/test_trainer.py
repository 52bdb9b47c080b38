import math
from functools import partial

import pytest
import torch

from pyro_vae.data import Dataset, Split
from pyro_vae.errors import BadInput, FailedRun
from pyro_vae.objectives import TraceMeanField_ELBO
from pyro_vae.optim import JointOptim
from pyro_vae.trainer import State, Trainer, torch_device


@pytest.fixture
def data():
    prototypes = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).double()
    x = prototypes[torch.arange(100) % 2]
    return Dataset(Split(x[:70]), Split(x[70:90]), Split(x[90:]))


def fit(vae, data, lr=0.01, on_epoch=None, state=None, **settings):
    rows, state = [], state or State()
    optim = JointOptim(partial(torch.optim.Adam, lr=lr))
    record = on_epoch or (lambda row, best: rows.append((row, best)))
    Trainer(**{"batch_size": 20, **settings}).fit(vae, data, TraceMeanField_ELBO(), optim, state, record)
    return rows, state


def test_training_finds_the_entropy_of_the_data(small_vae, data):
    """Two equally likely vectors: log p(x) = −log 2 at best, and the ELBO can come close."""
    rows, _ = fit(small_vae, data, lr=0.02, max_epochs=150)
    assert rows[0][0]["val/elbo"] < -3
    assert -1.2 < rows[-1][0]["val/elbo"] <= -math.log(2) + 0.05


def test_rows(small_vae, data):
    rows, state = fit(small_vae, data, max_epochs=3)
    for i, (row, _) in enumerate(rows, start=1):
        assert row["epoch"] == i
        assert row["step"] == 4 * i  # 70 datapoints in batches of 20
        assert row["train/kl"] >= 0
        assert row["train/elbo"] == pytest.approx(row["train/log_likelihood"] - row["train/kl"])
    assert (state.epoch, state.step) == (3, 12)
    best = max(rows, key=lambda r: r[0]["val/elbo"])[0]
    assert (state.best_epoch, state.best_elbo) == (best["epoch"], best["val/elbo"])
    assert rows[0][1]  # the first is the best yet


def test_every_datapoint_is_seen_once_an_epoch_in_a_new_order(small_vae, data):
    seen = []
    batch = data.batch
    data.batch = lambda index: seen.append(index) or batch(index)
    fit(small_vae, data, max_epochs=2)
    first, second = torch.cat(seen[1:5]), torch.cat(seen[5:])  # after the dry run's
    assert torch.equal(first.sort().values, torch.arange(70))
    assert torch.equal(second.sort().values, torch.arange(70))
    assert not torch.equal(first, second)


def test_validation_noise_is_the_same_every_epoch_and_leaves_the_generator_alone(small_vae, data):
    trainer = Trainer()
    state = torch.get_rng_state()
    assert trainer.validate(small_vae, data) == trainer.validate(small_vae, data)
    assert torch.equal(torch.get_rng_state(), state)


def test_early_stopping(small_vae, data):
    rows, state = fit(small_vae, data, lr=0.3, max_epochs=200, patience=3)
    assert state.epoch - state.best_epoch == 3
    assert len(rows) == state.epoch < 200
    again, _ = fit(small_vae, data, lr=0.3, max_epochs=200, patience=3, state=state)
    assert again == []  # resumed, it is still over


def test_max_seconds_stops_within_an_epoch_after_a_step_at_least(small_vae, data):
    rows, state = fit(small_vae, data, max_epochs=10**6, max_seconds=0.2)
    assert 0.2 <= state.seconds < 5
    assert math.isfinite(rows[-1][0]["train/elbo"])
    rows, state = fit(small_vae, data, max_epochs=10**6, max_seconds=1e-9)
    assert (len(rows), state.epoch, state.step) == (1, 1, 1)  # of the 4 steps of an epoch
    assert fit(small_vae, data, max_epochs=10**6, max_seconds=1e-9, state=state)[0] == []


def test_the_schedule_steps_every_epoch(small_vae, data):
    optim = JointOptim(partial(torch.optim.SGD, lr=1e-4), partial(torch.optim.lr_scheduler.StepLR, step_size=2))
    record = lambda row, best: rates.append(optim.optimizer.param_groups[0]["lr"])  # noqa: E731
    rates = []
    Trainer(max_epochs=4).fit(small_vae, data, TraceMeanField_ELBO(), optim, State(), record)
    assert rates == pytest.approx([1e-4, 1e-5, 1e-5, 1e-6])


def test_a_validation_elbo_that_is_not_finite_stops_the_run_before_it_is_saved(small_vae, data):
    rows = []
    data.val.x[0, 0] = math.nan
    with pytest.raises(FailedRun, match="validation ELBO is nan at epoch 1"):
        fit(small_vae, data, max_epochs=5, on_epoch=lambda row, best: rows.append(row))
    assert rows == []


def test_what_pyro_refuses_is_a_failed_run(small_vae, data):
    with torch.no_grad():
        small_vae.posterior.loc_log_scale.bias.fill_(math.nan)
    with pytest.raises(FailedRun, match="step 1: "):
        fit(small_vae, data, max_epochs=5)


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(small_vae, data):
    rows = []

    def poison(row, best):
        rows.append(row)
        with torch.no_grad():
            next(small_vae.decoder.parameters()).fill_(math.nan)

    with pytest.raises(FailedRun, match="loss is nan at step 5 of epoch 2"):
        fit(small_vae, data, max_epochs=5, on_epoch=poison)
    assert len(rows) == 1


def test_two_vaes_in_one_process_do_not_share_parameters(small_vae, data):
    from copy import deepcopy

    twin = deepcopy(small_vae)
    fit(small_vae, data, max_epochs=2)
    torch.manual_seed(0)
    before = torch.nn.utils.parameters_to_vector(twin.parameters()).detach()
    fit(twin, data, max_epochs=2)
    assert not torch.equal(torch.nn.utils.parameters_to_vector(twin.parameters()).detach(), before)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_epochs": 0}, {"max_epochs": 1.5}, {"max_epochs": "many"}, {"batch_size": 0}, {"batch_size": True},
        {"patience": 0}, {"max_seconds": 0}, {"max_seconds": math.nan}, {"val_num_samples": -1},
    ],
)  # fmt: skip
def test_refuses_bad_settings(settings):
    ((name, value),) = settings.items()
    with pytest.raises(BadInput, match=f"trainer.{name}={value}"):
        Trainer(**settings)


def test_device():
    assert torch_device("cpu").type == "cpu"
    with pytest.raises(BadInput, match="device=quantum"):
        torch_device("quantum")
    if not torch.cuda.is_available():
        assert torch_device("auto").type == "cpu"
        with pytest.raises(BadInput, match="device=cuda.*cpu or auto"):
            torch_device("cuda")
