import math
from copy import deepcopy
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from pyro_vae.data import Dataset, Split
from pyro_vae.errors import BadInput, FailedRun
from pyro_vae.guides import Diagonal, Point
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.objectives import IWAE, BetaVAE, KLAnnealing, Renyi, Trace_ELBO, TraceMeanField_ELBO, VariationalEM
from pyro_vae.priors import StandardNormal
from pyro_vae.programs.random_state import seeded
from pyro_vae.training.nonfinite import offending_site
from pyro_vae.training.optim import JointOptim
from pyro_vae.training.trainer import State, Trainer, torch_device
from pyro_vae.training.validation_elbo import MeanELBO
from pyro_vae.vae import VAE


@pytest.fixture
def data():
    prototypes = torch.tensor([[1.0, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).double()
    x = prototypes[torch.arange(100) % 2]
    return Dataset(Split(x[:70]), Split(x[70:90]), Split(x[90:]))


def fit(vae, data, lr=0.01, on_epoch=None, state=None, objective=None, **settings):
    rows, state = [], state or State()
    optim = JointOptim(partial(torch.optim.Adam, lr=lr))
    record = on_epoch or (lambda row, best: rows.append((row, best)))
    objective = objective or TraceMeanField_ELBO()
    Trainer(**{"batch_size": 20, **settings}).fit(vae, data, objective, optim, state, record)
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
    assert (state.best_epoch, state.best_elbo) == (best["epoch"], pytest.approx(best["val/elbo"]))
    assert rows[0][1]  # the first is the best yet


def two_orders(vae, data, **settings):
    """The training set's indices as two epochs take them."""
    seen = []
    batches = data.batches
    data.batches = lambda indices: seen.extend(indices) or batches(indices)
    fit(vae, data, max_epochs=2, **settings)
    return torch.cat(seen[1:5]), torch.cat(seen[5:])  # after the dry run's


def test_every_datapoint_is_seen_once_an_epoch_in_a_new_order(small_vae, data):
    first, second = two_orders(small_vae, data)
    assert torch.equal(first.sort().values, torch.arange(70))
    assert torch.equal(second.sort().values, torch.arange(70))
    assert not torch.equal(first, second)


def test_every_datapoint_is_seen_once_an_epoch_in_the_order_of_the_data(small_vae, data):
    for order in two_orders(small_vae, data, shuffle=False):
        assert torch.equal(order, torch.arange(70))


def test_validation_noise_is_the_same_every_epoch_and_leaves_the_generator_alone(small_vae, data):
    trainer = Trainer()
    state = torch.get_rng_state()
    mean_elbo = MeanELBO(small_vae, IWAE(5))
    assert trainer.validate(mean_elbo, data) == trainer.validate(mean_elbo, data)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_iwae_is_judged_by_its_own_bound(ppca):
    """L_K of a linear-Gaussian model rises with K from the ELBO to log p(x); the ELBO is no measure of an IWAE."""
    ppca.set_exact_guide(widen=1.5, shift=0.5)
    x = ppca.evidence.sample((500,))
    log_px = ppca.evidence.log_prob(x).mean().item()
    with torch.no_grad():
        q = ppca.vae.q_z(x)
        kl = kl_divergence(MultivariateNormal(q.mean, scale_tril=q.scale_tril), ppca.posterior(x)).mean().item()
        z = q.sample((100,))
        noise = (ppca.vae.log_joint(x, None, z) - q.log_prob(z)).std(0).mean().item() / math.sqrt(500)
    bounds = []
    for K in (1, 5, 1000):
        elbo, _, bound = MeanELBO(ppca.vae, IWAE(K).for_validation(5))(x)
        assert elbo == pytest.approx(log_px - kl, abs=4 * noise / math.sqrt(K))  # the same for any K
        bounds.append(bound)
    assert bounds[0] == pytest.approx(log_px - kl, abs=4 * noise)
    assert bounds[0] + kl / 2 < bounds[1] < bounds[2]
    assert bounds[2] == pytest.approx(log_px, abs=0.01)
    elbo, _, bound = MeanELBO(ppca.vae, Trace_ELBO(1).for_validation(5))(x)
    assert bound == pytest.approx(elbo)
    assert elbo == pytest.approx(log_px - kl, abs=4 * noise / math.sqrt(5))


@pytest.mark.parametrize(("objective", "best"), [(IWAE(5), 3), (Trace_ELBO(), 1)])
def test_the_best_epoch_is_that_of_the_objectives_bound(small_vae, data, monkeypatch, objective, best):
    # an ELBO that falls while L_K rises, as where a guide spreads out
    evaluated = iter([[-1.0, 0.0, -0.9], [-2.0, 0.0, -0.5], [-3.0, 0.0, -0.2]])

    def sums(self, x, y):
        elbo, log_likelihood, bound = next(evaluated)
        return len(x) * torch.tensor([elbo, log_likelihood, bound if isinstance(self.objective, Renyi) else elbo])

    monkeypatch.setattr(MeanELBO, "_sums", sums)
    rows, state = fit(small_vae, data, objective=objective, max_epochs=3, compile=False)
    assert [row["val/elbo"] for row, _ in rows] == [-1, -2, -3]
    assert state.best_epoch == best


def test_a_beta_vae_is_judged_by_its_weighted_bound(small_vae, data, monkeypatch):
    evaluated = iter([[-3.0, -1.0], [-3.5, -2.5], [-4.0, -3.9]])  # ELBO, log-likelihood: a KL of 2, 1 and 0.1

    def sums(self, x, y):
        elbo, log_likelihood = next(evaluated)
        return len(x) * torch.tensor([elbo, log_likelihood, elbo])

    monkeypatch.setattr(MeanELBO, "_sums", sums)
    _, state = fit(small_vae, data, objective=BetaVAE(4.0), max_epochs=3, compile=False)
    assert state.best_epoch == 3
    assert state.best_elbo == pytest.approx(-3.9 - 4 * 0.1, rel=1e-5)


def test_the_objective_is_told_how_far_training_has_come(small_vae, data):
    objective, told = KLAnnealing(num_epochs=2), []
    at_step = objective.at_step

    def record(step, epoch):
        variant = at_step(step, epoch)
        told.append((step, objective.beta.item()))
        return variant

    objective.at_step = record
    fit(small_vae, data, objective=objective, max_epochs=2, compile=False)
    betas = [(epoch + seen / 70) / 2 for epoch in (0, 1) for seen in (0, 20, 40, 60)]
    assert told[-8:] == [(i, pytest.approx(beta)) for i, beta in enumerate(betas)]


def test_early_stopping(small_vae, data, caplog):
    caplog.set_level("INFO")
    rows, state = fit(small_vae, data, lr=0.3, max_epochs=200, patience=3)
    assert state.epoch - state.best_epoch == 3
    assert len(rows) == state.epoch < 200
    assert "nothing is left" not in caplog.text
    again, _ = fit(small_vae, data, lr=0.3, max_epochs=200, patience=3, state=state)
    assert again == []  # resumed, it is still over
    assert "nothing is left to train: the validation ELBO has not improved for patience=3" in caplog.text
    assert fit(small_vae, data, max_epochs=state.epoch, state=state)[0] == []
    assert f"nothing is left to train: max_epochs={state.epoch} are done" in caplog.text


def test_without_a_validation_set_the_last_epoch_is_the_best(small_vae, data):
    data = Dataset(data.train, Split(data.val.x[:0]), data.test)
    rows, state = fit(small_vae, data, max_epochs=3, compile=False)
    assert [best for _, best in rows] == [True] * 3
    assert state.best_epoch == 3
    assert all(math.isnan(row["val/elbo"]) and math.isfinite(row["train/elbo"]) for row, _ in rows)
    with pytest.raises(BadInput, match="patience.*the validation set is empty"):
        fit(small_vae, data, patience=3)
    plateau = JointOptim(partial(torch.optim.SGD, lr=1e-4), torch.optim.lr_scheduler.ReduceLROnPlateau)
    with pytest.raises(BadInput, match="scheduler=plateau.*the validation set is empty"):
        Trainer().fit(small_vae, data, TraceMeanField_ELBO(), plateau, State(), lambda row, best: None)


def test_compiled_without_a_validation_set(small_vae, data, as_traced):
    data = Dataset(data.train, Split(data.val.x[:0]), data.test)
    assert len(fit(small_vae, data, max_epochs=2, compile=True)[0]) == 2


def test_max_seconds_stops_within_an_epoch_after_a_step_at_least(small_vae, data, caplog):
    caplog.set_level("INFO")
    rows, state = fit(small_vae, data, max_epochs=10**6, max_seconds=0.2)
    assert 0.2 <= state.seconds < 5
    assert math.isfinite(rows[-1][0]["train/elbo"])
    rows, state = fit(small_vae, data, max_epochs=10**6, max_seconds=1e-9)
    assert (len(rows), state.epoch, state.step) == (1, 1, 1)  # of the 4 steps of an epoch
    caplog.clear()
    assert fit(small_vae, data, max_epochs=10**6, max_seconds=1e-9, state=state)[0] == []
    assert "time limit reached at epoch 1 (max_seconds=1e-09)" in caplog.text


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


def test_a_failed_run_names_the_site_and_the_checkpoint(small_vae, data):
    data.train.x[60, 0] = math.nan  # the encoder makes a NaN of it, before the likelihood meets it
    where = "the value of the guide's site z is not finite; the last good epoch is 0"
    with pytest.raises(FailedRun, match=rf"loss is nan at step \d of epoch 1: {where}"):
        fit(small_vae, data, max_epochs=5)
    assert all(p.isfinite().all() for p in small_vae.parameters())  # the step has not been made


def infinite_weight(vae):
    next(vae.decoder.parameters()).data.fill_(math.inf)


def huge_scale(vae):
    vae.posterior.loc_log_scale.bias.data.fill_(1e300)


def no_density(vae):
    vae.likelihood.forward = lambda h: dist.Normal(torch.zeros_like(h), math.nan).to_event(1)


@pytest.mark.parametrize(
    ("spoil", "where"),
    [
        (infinite_weight, "the parameter decoder.0.weight is not finite"),
        (huge_scale, "the value of the guide's site z is not finite"),
        (no_density, "the log-density of the model's site x is not finite"),
        (lambda vae: None, "all sites are finite"),
    ],
)
def test_offending_site(small_vae, data, spoil, where):
    spoil(small_vae)
    with pyro.validation_enabled(False):
        small_vae.guide(data.train.x), small_vae.model(data.train.x)  # their parameters into the store
    assert where in offending_site(small_vae.model, small_vae.guide, data.train.x, None)


def test_steps_that_are_not_finite_are_skipped_and_counted(small_vae, data, caplog):
    data.train.x[60, 0] = math.nan  # in one of the 4 batches of each epoch
    rows, state = fit(small_vae, data, lr=0.02, max_epochs=60, on_nan="skip")
    assert state.skipped == 60
    assert state.step == 240
    assert all(math.isfinite(value) for row, _ in rows for value in row.values())
    assert rows[-1][0]["train/elbo"] == pytest.approx(rows[-1][0]["val/elbo"], abs=0.5)  # the mean of what was used
    assert "epoch 60: 1 steps skipped" in caplog.text


def test_when_every_step_is_skipped_the_run_has_failed(small_vae, data):
    class Spoilt(TraceMeanField_ELBO):
        def bound(self, *args):
            bound = super().bound(*args)
            return bound._replace(loss=bound.loss * math.nan)

    optim = JointOptim(partial(torch.optim.Adam, lr=0.01))
    with pytest.raises(FailedRun, match="epoch 1: every step was skipped.*learning rate or clip_norm=10$"):
        Trainer(on_nan="skip").fit(small_vae, data, Spoilt(), optim, State(), on_epoch=lambda row, best: None)


def test_two_vaes_in_one_process_do_not_share_parameters(small_vae, data):
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
        {"shuffle": "no"}, {"compile": "perhaps"}, {"compile": 1}, {"precision": "float16"},
    ],
)  # fmt: skip
def test_refuses_bad_settings(settings):
    ((name, value),) = settings.items()
    with pytest.raises(BadInput, match=f"^{name}={value}"):
        Trainer(**settings)


def test_device():
    assert torch_device("cpu").type == "cpu"
    with pytest.raises(BadInput, match="device=quantum"):
        torch_device("quantum")
    if not torch.cuda.is_available():
        assert torch_device("auto").type == "cpu"
        with pytest.raises(BadInput, match="device=cuda.*cpu or auto"):
            torch_device("cuda")


def train(vae, data, objective=None, settings=None, **fit_with):
    """Parameters after some epochs, and the rows."""
    rows, objective = [], objective or TraceMeanField_ELBO()
    optim, state = JointOptim(partial(torch.optim.Adam, lr=0.01)), fit_with.pop("state", State())
    trainer = Trainer(**{"batch_size": 20, "max_epochs": 3, **(settings or {})})
    torch.manual_seed(3)
    trainer.fit(vae, data, objective, optim, state, lambda row, best: rows.append(row), **fit_with)
    return torch.nn.utils.parameters_to_vector(vae.parameters()).detach(), rows, state


OBJECTIVES = [TraceMeanField_ELBO(), IWAE(5), KLAnnealing(num_epochs=2), VariationalEM(e_steps=2, m_steps=3)]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.name)
def test_compiled_training_is_the_same_training(small_vae, data, objective, as_traced):
    """70 datapoints in batches of 20: the last, of 10, runs as it is."""
    twin = deepcopy(small_vae)
    expected, rows, state = train(small_vae, data, objective, {"compile": False})
    assert state.compiled is False
    actual, compiled_rows, state = train(twin, data, objective, {"compile": True})
    assert state.compiled is True
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12)  # double precision
    for row, other in zip(compiled_rows, rows, strict=True):
        assert {**row, "seconds": 0} == pytest.approx({**other, "seconds": 0}, rel=1e-9)


def test_inductor_trains_as_well(small_vae, data):
    twin = deepcopy(small_vae)
    expected, _, _ = train(small_vae, data, None, {"compile": False})
    actual, _, _ = train(twin, data, None, {"compile": True})
    torch.testing.assert_close(actual, expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(("seconds", "compiled"), [(0.0, True), (1e9, False)])
def test_auto_compiles_if_that_is_paid_back(small_vae, data, as_traced, monkeypatch, caplog, seconds, compiled):
    monkeypatch.setattr("pyro_vae.compilation.break_even.COMPILE_SECONDS", seconds)
    with caplog.at_level("INFO"):
        _, _, state = train(small_vae, data)
    assert state.compiled is compiled
    assert ("compiled in" in caplog.text) == compiled
    assert "12 steps of" in caplog.text
    assert ("too few" in caplog.text) != compiled
    # a resumed run does as it did before, whatever is left of it
    state.epoch, state.compiled = 2, not compiled
    _, _, state = train(small_vae, data, state=state)
    assert state.compiled is not compiled


def test_one_trajectory_whether_interrupted_or_not(small_vae, data, as_traced):
    """Compiling uses up no noise and learns nothing, at the start or at a resumption."""
    twin = deepcopy(small_vae)
    expected, _, _ = train(small_vae, data, None, {"compile": True, "max_epochs": 4})
    optim, state = JointOptim(partial(torch.optim.Adam, lr=0.01)), State()
    torch.manual_seed(3)
    for max_epochs in (2, 4):
        trainer = Trainer(batch_size=20, max_epochs=max_epochs, compile=True)
        trainer.fit(twin, data, TraceMeanField_ELBO(), optim, state, lambda row, best: None)
        again = JointOptim(partial(torch.optim.Adam, lr=0.01))
        again.set_state(optim.get_state())
        optim = again
    assert torch.equal(torch.nn.utils.parameters_to_vector(twin.parameters()), expected)


def test_bf16_products_train_and_say_where_they_are_slow(small_vae, data, monkeypatch, caplog):
    vae = small_vae.float()
    floats = Dataset(*(Split(split.x.float()) for split in (data.train, data.val, data.test)))
    monkeypatch.setattr("pyro_vae.training.trainer.is_fast", lambda device: False)
    _, exact, _ = train(deepcopy(vae), floats, None, {"max_epochs": 30})
    _, rows, _ = train(vae, floats, None, {"max_epochs": 30, "precision": "bf16-mixed"})
    assert "float32 is faster" in caplog.text
    assert all(p.dtype == torch.float32 for p in vae.parameters())
    assert rows[0]["train/elbo"] != exact[0]["train/elbo"]
    # bfloat16 keeps 8 bits: the loss of a few nats is off by hundredths
    assert rows[-1]["val/elbo"] == pytest.approx(exact[-1]["val/elbo"], abs=0.3)


def test_an_epoch_of_exactly_as_many_steps_as_are_reported_at_once(small_vae, data, monkeypatch):
    monkeypatch.setattr("pyro_vae.training.trainer.REPORT_EVERY", 2)
    rows, _ = fit(small_vae, data, max_epochs=1)  # 4 steps
    assert rows[0][0]["step"] == 4


def test_map_estimation_is_judged_by_log_p_x_z(data):
    """Of a point the log-likelihood alone rises while log p(z) falls: what is trained is their sum."""
    vae = VAE.build([6], 2, MLP([16]), StandardNormal, Bernoulli, Point).double()
    x = data.val.x
    with torch.no_grad():
        z = vae.encode(x)
        log_joint = vae.log_joint(x, None, z.unsqueeze(0)).mean().item()
        log_likelihood = vae.p_x(z).log_prob(x).mean().item()
    elbo, of_points, bound = MeanELBO(vae)(x)
    assert elbo == of_points == pytest.approx(log_likelihood)  # as metrics.csv has it
    assert bound == pytest.approx(log_joint)
    for weight, score in ((1.0, log_joint), (0.0, log_likelihood)):
        optim = JointOptim(partial(torch.optim.SGD, lr=0.0))
        state = State()
        Trainer(batch_size=20, max_epochs=1).fit(vae, data, BetaVAE(weight), optim, state, lambda row, best: None)
        assert state.best_elbo == pytest.approx(score)


@pytest.mark.usefixtures("as_traced")
@pytest.mark.parametrize("compiled", [True, False])
def test_validation_is_of_the_model_as_it_will_be_used(data, compiled):
    """Without dropout; and batch norm learns nothing from what is held out."""
    vae = VAE.build([6], 2, MLP([16]), StandardNormal, Bernoulli, Diagonal).double()
    norm = nn.BatchNorm1d(6).double()
    vae.encoder = nn.Sequential(norm, nn.Dropout(0.5), vae.encoder)
    frozen = vae.decoder.eval()
    rows, state = fit(vae, data, max_epochs=2, compile=compiled)
    assert norm.num_batches_tracked == 2 * 4  # 70 datapoints in batches of 20
    assert vae.encoder.training
    assert not frozen.training
    vae.eval()
    with seeded(0, data.val.x):
        assert rows[-1][0]["val/elbo"] == pytest.approx(MeanELBO(vae, Trace_ELBO(5))(data.val.x)[0])
    assert state.epoch == 2


class Root(nn.Module):
    """Whose gradient at zero is infinite, where its value is none."""

    def __init__(self):
        super().__init__()
        self.at = nn.Parameter(torch.zeros((), dtype=torch.double))

    def forward(self, x):
        return x + self.at.abs().sqrt()


def test_parameters_that_are_no_numbers_get_into_no_checkpoint(small_vae, data):
    """Without a validation set nobody else looks at what the last step of an epoch has made."""
    small_vae.encoder.append(Root())
    data = Dataset(data.train, data.val.first(1).map(lambda x: x[:0]), data.test)
    with pytest.raises(FailedRun, match=r"is not finite after epoch 1; the last good epoch is 0: try a smaller"):
        fit(small_vae, data, max_epochs=1, batch_size=70, compile=False)
