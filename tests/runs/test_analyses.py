"""Analyses as files, and the notes and warnings about them."""

import json
import warnings
from dataclasses import replace

import pytest
import torch

from pyro_vae.analysis import Gaps, Surgery
from pyro_vae.analysis.gaps import StillRises
from pyro_vae.runs import analyses

PARTS = Surgery(
    elbo=-1.0, reconstruction=2.0, kl=3.0, mutual_information=2.96, mutual_information_at_limit=True, marginal_kl=0.04,
    active_units=2, latent_dim=2, num_data=20,
)  # fmt: skip


@pytest.mark.parametrize(
    ("most", "end"),
    [(50, "a larger num_data, up to 50, raises the limit"), (20, "; the split has no more datapoints")],
)
def test_too_few_datapoints_are_noted(most, end, caplog):
    caplog.set_level(0)
    analyses._note_limit(replace(PARTS, mutual_information_at_limit=False), most)
    assert not caplog.records
    analyses._note_limit(PARTS, most)
    assert "20 datapoints are too few for I(x; z), which is at most log N (3.00 nats)" in caplog.text
    assert caplog.messages[0].endswith(end)


def test_collapse_is_warned_of(caplog):
    analyses._warn_of_collapse(PARTS)
    assert not caplog.records
    analyses._warn_of_collapse(replace(PARTS, active_units=1))
    assert "posterior collapse: 1 of 2 latent dimensions are active, I(x; z) >= 2.96 nats" in caplog.text


def test_files_of_analyses_hold_known_keys(command, small_run):
    options = ["analysis=all", "num_data=4", "plots=false", "estimator=importance"]
    outcome = command("evaluate", f"run={small_run}", *options)
    assert outcome.code == 0, outcome.err
    gaps, surgery = (json.loads((small_run / f"evaluations/{name}.json").read_text()) for name in ("gaps", "surgery"))
    values = ["log_px", "elbo", "elbo_best", "approximation_gap", "amortization_gap", "rising"]
    assert list(gaps["test"]) == [*values, "num_data", "seed", "num_steps", "settings"]
    assert list(surgery["train"]) == [*vars(PARTS), "seed"]
    row = gaps["train"]
    assert row["elbo"] + row["amortization_gap"] + row["approximation_gap"] == pytest.approx(row["log_px"])


def test_a_bound_that_still_rises_is_logged_with_the_key_that_mends_it(command, small_run, monkeypatch):
    def gaps(*args, num_steps):
        warnings.warn("a bound rises", StillRises, stacklevel=2)
        warnings.warn("of another library", UserWarning, stacklevel=2)
        return Gaps(*[torch.zeros(4)] * 5, rising=torch.tensor([1.0, 0.0, 0.0, 0.0]))

    monkeypatch.setattr(analyses.analysis, "gaps", gaps)
    options = ["analysis=gaps", "num_data=4", "plots=false", "estimator=importance", "num_steps=7"]
    with pytest.warns(UserWarning, match="of another library") as caught:
        outcome = command("evaluate", f"run={small_run}", *options)
    assert {str(warning.message) for warning in caught} == {"of another library"}
    assert outcome.code == 0, outcome.err
    shown = (outcome.out + outcome.err).splitlines()
    assert [line for line in shown if "num_steps=7" in line] == [
        f"warning: {name}: the ELBO of the best member of the guide's family still rises for 25.0 % of datapoints, so "
        "approximation gaps are too large: raise num_steps=7, e.g. to num_steps=28"
        for name in ("train", "test")
    ]
