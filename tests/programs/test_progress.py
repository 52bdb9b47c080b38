"""How far long tasks have come: bars on terminals and in notebooks, lines elsewhere."""

import io
import logging
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import make_ppca

import pyro_vae
from pyro_vae import analysis
from pyro_vae.analysis.imputation import impute
from pyro_vae.marginal import AIS, BDMC, ELBO, NUTS, Exact, Importance, Prior, Refined, Sandwich
from pyro_vae.marginal.local import fit_elbo
from pyro_vae.programs import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def lines(caplog, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    caplog.set_level(logging.INFO, "pyro_vae.programs.progress")
    return caplog


def test_lines_tell_the_start_and_the_share_done(lines):
    with progress.progress("counting", 4) as tick:
        for _ in range(4):
            tick(1)
    assert lines.messages[0] == "counting ..."
    assert [line.partition(" done")[0] for line in lines.messages[1:]] == [
        "counting: 25 %",
        "counting: 50 %",
        "counting: 75 %",
    ]


def test_lines_come_seldom(caplog):
    caplog.set_level(logging.INFO, "pyro_vae.programs.progress")
    with progress.progress("counting", 1000) as tick:
        for _ in range(1000):
            tick(1)
    assert caplog.messages == ["counting ..."]


def test_a_terminal_shows_a_bar_and_no_lines(lines, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "DELAY", 0.0)
    with progress.progress("counting", 4) as tick:
        time.sleep(0.15)  # tqdm draws no more often
        tick(2)
    assert "counting:  50%" in terminal.getvalue()
    assert not lines.messages


def test_a_notebook_shows_bars_though_it_is_no_terminal(monkeypatch):
    class OutStream(io.StringIO):
        """What ipykernel has in the place of stderr: `isatty` is False."""

    monkeypatch.setitem(sys.modules, "ipykernel.iostream", SimpleNamespace(OutStream=OutStream))
    assert not progress.shows_bars()  # that ipykernel is there does not make this a notebook
    monkeypatch.setattr(sys, "stderr", OutStream())
    assert progress.shows_bars()


def test_only_the_first_process_speaks(lines, monkeypatch):
    monkeypatch.setattr("pyro_vae.parallel.collectives.rank", lambda: 1)
    with progress.progress("counting", 2) as tick:
        tick(1)
    assert not lines.messages


ESTIMATORS = [
    Importance(40, chunk_size=20), Prior(40, chunk_size=20), ELBO(40, chunk_size=20), Refined(40, chunk_size=20),
    AIS(8, 4, start="guide"), BDMC(8, 4, start="guide"), NUTS(8, 8), Sandwich(20, num_warmup=5, num_draws=16),
]  # fmt: skip


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: estimator.name)
def test_every_estimator_says_what_it_does_and_how_far_it_is(estimator, lines):
    ppca = make_ppca()
    estimator(ppca.vae.model, ppca.vae.guide, ppca.evidence.sample((3,)))
    assert lines.messages[0].endswith(
        f"estimating log p(x) of 3 datapoints by {estimator.name}, K = {estimator.num_samples} ..."
    )
    assert len(lines.messages) > 2


def test_one_datapoint_is_one(lines):
    ppca = make_ppca()
    Exact()(ppca.vae.model, ppca.vae.guide, ppca.evidence.sample((1,)))
    assert lines.messages == ["estimating log p(x) of 1 datapoint by exact, K = 1 ..."]


def test_a_bar_reaches_its_end_with_gradient_steps_and_draws(ppca):
    told = []
    Refined(30, num_elbo_steps=5)(ppca.vae.model, ppca.vae.guide, ppca.evidence.sample((4,)), progress=told.append)
    assert sum(told) == 4 * 30
    assert len(told) == 6
    assert all(units > 0 for units in told)
    told.clear()
    NUTS(30, 10)(ppca.vae.model, ppca.vae.guide, ppca.evidence.sample((2,)), progress=told.append)
    assert sum(told) == 2 * 30
    assert len(told) == 2 * (10 + 10)


def test_each_gradient_step_is_told(ppca):
    steps = []
    x = ppca.evidence.sample((3,))
    fit_elbo(
        lambda u: ppca.vae.log_joint(x, None, u), ppca.vae.q_z(x), 6, num_rounds=2, on_step=lambda: steps.append(1)
    )
    assert len(steps) == 6


def test_analyses_and_imputation_say_how_far_they_are(ppca, lines):
    x = ppca.evidence.sample((6,))
    analysis.gaps(ppca.vae.model, ppca.vae.guide, x, Exact(), num_steps=4, num_samples=10)
    analysis.surgery(ppca.vae.model, ppca.vae.guide, x, chunk_size=12)
    impute(ppca.vae.model, ppca.vae.guide, x, torch.rand(6, 5) < 0.5, num_steps=5)
    for task in (
        "fitting the guide's family to each of 6 datapoints",
        "ELBO surgery of 6 datapoints",
        "imputing 6 datapoints",
    ):
        assert f"{task} ..." in lines.messages
        assert any(line.startswith(f"{task}: ") for line in lines.messages)


# Scripts without a terminal that do not configure `logging`

X = (np.random.default_rng(0).random((40, 12)) < 0.3).astype(np.float32)
QUICK = {"latent_dim": 2, "overrides": ["network.hidden=[4]", "trainer.compile=false"]}


@pytest.fixture
def no_logging(monkeypatch):
    """Pytest adds its handlers to the root logger after all fixtures have run: this one goes without them."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "addHandler", lambda handler: None)
    monkeypatch.setattr(root, "handlers", [])


def epochs_of(err):
    return [int(line.split()[1]) for line in err.splitlines() if line.startswith("epoch ")]


@pytest.mark.parametrize(("max_epochs", "told"), [(1, [1]), (3, [1, 2, 3]), (25, [1, *range(3, 25, 3), 25])])
def test_fit_says_how_far_it_is(no_logging, capsys, max_epochs, told):
    pyro_vae.fit(X, **QUICK, max_epochs=max_epochs)
    out, err = capsys.readouterr()
    assert epochs_of(err) == told
    assert out == ""


def test_an_early_stop_has_its_line_and_so_has_every_slow_epoch(no_logging, capsys, monkeypatch):
    stop = {**QUICK, "overrides": [*QUICK["overrides"], "trainer.patience=2"]}
    pyro_vae.fit(X, **stop, lr=1e-30, max_epochs=500)
    assert epochs_of(capsys.readouterr().err) == [1, 3]
    monkeypatch.setattr(progress, "EPOCH_SECONDS", 0.0)
    pyro_vae.fit(X, **stop, lr=1e-30, max_epochs=500)
    assert epochs_of(capsys.readouterr().err) == [1, 2, 3]


def test_exact_em_says_how_far_it_is(no_logging, capsys):
    linear = ["trainer=exact_em", "network.hidden=[]", "likelihood.scale=learned"]
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    pyro_vae.fit(x, likelihood="gaussian", guide="full_covariance", latent_dim=1, max_epochs=2, overrides=linear)
    assert "iteration    2  log p(x)" in capsys.readouterr().err


def test_fit_is_silent_if_told_so(no_logging, capsys, monkeypatch):
    pyro_vae.fit(X, **QUICK, max_epochs=2, verbose=False)
    assert not epochs_of(capsys.readouterr().err)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    pyro_vae.fit(X, **QUICK, max_epochs=2, verbose=False)
    assert "training" not in terminal.getvalue()
    pyro_vae.fit(X, **QUICK, max_epochs=2)
    assert "training: 100%" in terminal.getvalue()
    with pytest.raises(pyro_vae.errors.BadInput, match="verbose=1 must be true or false"):
        pyro_vae.fit(X, **QUICK, verbose=1)


def test_once_logging_is_configured_lines_go_there_alone(caplog, capsys):
    caplog.set_level(logging.INFO, "pyro_vae")
    pyro_vae.fit(X, **QUICK, max_epochs=25)
    assert sum(message.startswith("epoch ") for message in caplog.messages) == 25
    caplog.set_level(logging.WARNING, "pyro_vae")
    pyro_vae.fit(X, **QUICK, max_epochs=2)
    assert epochs_of(capsys.readouterr().err) == []


def test_long_tasks_say_how_far_they_are(no_logging, capsys, monkeypatch, ppca):
    x = ppca.evidence.sample((2,))
    ppca.vae.encode(x)
    Importance(600)(ppca.vae.model, ppca.vae.guide, x)
    assert capsys.readouterr().err == ""  # short
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    Importance(600, chunk_size=200)(ppca.vae.model, ppca.vae.guide, x)
    first, *_ = capsys.readouterr().err.splitlines()
    assert first.startswith("estimating log p(x) of 2 datapoints by importance, K = 600: ")
    assert "% done, about" in first


def test_without_logging_warnings_are_python_warnings_of_the_callers_line(no_logging, capsys):
    x = X * np.logspace(0, 4, 12, dtype=np.float32)
    with pytest.warns(UserWarning, match="one scale on columns of very different") as caught:
        pyro_vae.fit(x, likelihood="gaussian", standardize=False, max_epochs=1, verbose=False, **QUICK)
    assert {warning.filename for warning in caught} == {__file__}
    assert capsys.readouterr().err == ""
    logging.getLogger("another.library").warning("its own")
    assert capsys.readouterr().err == "its own\n"
