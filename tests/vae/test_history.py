"""The table of epochs."""

import pytest

from pyro_vae.vae.history import SHOWN, History


def rows(n):
    return History({"epoch": i + 1, "val/elbo": -100.0 / (i + 1)} for i in range(n))


def test_it_prints_as_a_table():
    assert repr(rows(2)) == "epoch   val/elbo\n    1  -100.0000\n    2   -50.0000"
    assert repr(History()) == "History([])"
    lines = repr(rows(100)).splitlines()
    assert len(lines) == SHOWN + 2
    assert "80 epochs" in lines[1 + SHOWN // 2]
    assert lines[-1].split() == ["100", "-1.0000"]


def test_it_is_a_list_of_rows_and_becomes_a_data_frame():
    pandas = pytest.importorskip("pandas")
    history = rows(3)
    assert history.column("val/elbo") == [-100, -50, -100 / 3]
    assert list(pandas.DataFrame(history).columns) == ["epoch", "val/elbo"]
