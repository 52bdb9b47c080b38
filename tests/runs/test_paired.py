"""Paired differences of log p(x), against NumPy on made-up arrays."""

import math

import numpy as np
import pytest
import torch

from pyro_vae.analysis import Difference
from pyro_vae.errors import BadInput
from pyro_vae.marginal import LogEvidence
from pyro_vae.runs import paired
from pyro_vae.runs.figures import save
from pyro_vae.runs.paired import Scores
from pyro_vae.runs.plots import paired as paired_plots

RNG = np.random.default_rng(0)
N = 50
LOG_PX = RNG.normal(-90, 8, N)  # differs far more between datapoints than between models
SHIFT = 0.3 + RNG.normal(0, 0.5, N)


def flags(*where):
    return np.isin(np.arange(N), where)


WORSE = Scores(LOG_PX, flags(1, 2, 3), np.arange(N) + 7)
BETTER = Scores(LOG_PX + SHIFT, flags(3, 4), np.arange(N) + 7)


def test_a_difference_is_that_of_numpy():
    found = BETTER.minus(WORSE)
    assert found.difference == pytest.approx(SHIFT.mean())
    assert found.se == pytest.approx(math.sqrt(np.sum((SHIFT - SHIFT.mean()) ** 2) / (N - 1) / N))
    assert found.z == pytest.approx(found.difference / found.se)
    assert found.se < 0.1 < LOG_PX.std() / math.sqrt(N)  # of the means alone
    assert (found.num_data, found.flagged, found.flagged_in_either, found.flagged_in_both) == (N, 2, 4, 1)
    kept = np.delete(SHIFT, [1, 2, 3, 4])
    assert found.difference_without_flagged == pytest.approx(kept.mean())
    assert found.se_without_flagged == pytest.approx(kept.std(ddof=1) / math.sqrt(N - 4))
    back = WORSE.minus(BETTER)
    assert (back.difference, back.z, back.flagged) == (pytest.approx(-SHIFT.mean()), pytest.approx(-found.z), 3)


def test_what_has_no_error_has_none():
    assert WORSE.minus(WORSE).difference == 0
    assert WORSE.minus(WORSE).z is None
    single = Scores(LOG_PX[:1], flags()[:1]).minus(Scores(LOG_PX[:1] - 1, flags()[:1]))
    assert (single.difference, single.se, single.z) == (pytest.approx(1), None, None)
    infinite = Scores(np.where(flags(0), -math.inf, LOG_PX), flags(0))
    for other in (WORSE, infinite):
        found = infinite.minus(other)
        assert (found.difference, found.se, found.z) == (None, None, None)
        assert found.difference_without_flagged is not None
    nothing = Difference.of(Scores(LOG_PX, flags(*range(N))), WORSE)
    assert (nothing.difference_without_flagged, nothing.se_without_flagged) == (None, None)


def test_means_over_seeds_are_taken_before_the_difference():
    other_seed = Scores(LOG_PX + 3 * SHIFT, flags(9), WORSE.row)
    mean = Scores.mean([BETTER, other_seed])
    np.testing.assert_allclose(mean.log_px, LOG_PX + 2 * SHIFT)
    assert mean.unreliable.nonzero()[0].tolist() == [3, 4, 9]
    trainings = np.std([BETTER.log_px.mean(), other_seed.log_px.mean()], ddof=1) / math.sqrt(2)
    assert mean.training_se == pytest.approx(trainings)
    both = math.hypot(2 * SHIFT.std(ddof=1) / math.sqrt(N), trainings)
    assert mean.minus(WORSE).se == pytest.approx(both)
    assert WORSE.minus(mean).z == pytest.approx(-2 * SHIFT.mean() / both)


def test_the_noise_of_training_does_not_tell_options_apart():
    rng, num_pairs, num_runs = np.random.default_rng(1), 400, 20

    def option():
        """Runs of one way of training: a shift for each training, and noise for each datapoint."""
        shifts, noise = rng.normal(0, 0.15, (num_runs, 1)), rng.normal(0, 0.5, (num_runs, 100))
        return Scores.mean([Scores(LOG_PX.repeat(2) + row, flags().repeat(2)) for row in shifts + noise])

    z = [option().minus(option()).z for _ in range(num_pairs)]
    # the noise of datapoints, if it is independent between trainings, counts twice: var(z) is between 1/2 and 1.1
    assert 0.5 < np.var(z) < 1.1 * (1 + 4 * math.sqrt(2 / num_pairs))


def test_table_and_warnings(tmp_path):
    rows = paired.compare({"runs/a": WORSE, "runs/b": BETTER, "c": Scores(LOG_PX, flags(1, 2, 3))}, "runs/a")
    head, *lines = paired.table(rows, "title").splitlines()
    assert (head, [line.split()[0] for line in lines[1:]]) == ("title", ["runs/a", "runs/b", "c"])
    assert lines[1].split()[2:] == ["reference", "3"]
    d = BETTER.minus(WORSE)
    expected = [
        f"{(LOG_PX + SHIFT).mean():.3f}",
        f"{d.difference:+.3f}",
        "±",
        f"{d.se:.3f}",
        f"{d.z:.1f}",
        "2",
        "4",
        "1",
    ]
    assert lines[2].split()[1:] == expected
    assert lines[3].split()[2:] == ["+0.000", "±", "0.000", "-", "3", "3", "3"]
    (doubt, _) = paired.doubts(rows)
    assert doubt.startswith("8.0 % of the datapoints have an unreliable estimate by runs/b or the reference")
    assert doubt.endswith(f"{d.difference_without_flagged:+.3f} ± {d.se_without_flagged:.3f}")
    fine = Scores(LOG_PX, flags())
    assert paired.doubts(paired.compare({"a": fine, "b": fine}, "a")) == []
    axes = paired_plots.differences({"runs/a": WORSE, "runs/b": BETTER}, "runs/a")
    drawn = np.sort(np.concatenate([line.get_ydata() for line in axes[0].lines if line.get_marker() in "oX"]))
    np.testing.assert_allclose(drawn, np.sort(SHIFT))
    save(axes, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_arrays_are_read_with_and_without_row_numbers(tmp_path):
    arrays = {"log_px": LOG_PX, "unreliable": flags(1), "ess": LOG_PX}
    np.savez(tmp_path / "old.npz", **arrays)
    np.savez(tmp_path / "new.npz", row=np.arange(N), **arrays)
    np.savez(tmp_path / "other.npz", row=np.arange(N) + 1, **arrays)
    np.savez(tmp_path / "short.npz", log_px=LOG_PX[:9], unreliable=flags()[:9])
    old, new, other, short = (Scores.read(tmp_path / f"{name}.npz") for name in ("old", "new", "other", "short"))
    np.testing.assert_array_equal(new.log_px, LOG_PX)
    np.testing.assert_array_equal(new.unreliable, flags(1))
    np.testing.assert_array_equal(new.row, np.arange(N))
    assert old.row is None
    assert old.may_be_of_same_rows(new)
    assert new.may_be_of_same_rows(old)
    assert not new.may_be_of_same_rows(other)
    assert not old.may_be_of_same_rows(short)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"log_px": LOG_PX}, "array=unreliable is not an entry of"),
        ({"log_px": LOG_PX, "unreliable": LOG_PX}, "was not written by pyro_vae"),
        ({"log_px": LOG_PX, "unreliable": flags()[:3]}, "was not written by pyro_vae"),
        ({"log_px": LOG_PX, "unreliable": flags(), "row": np.arange(3)}, "was not written by pyro_vae"),
        ({"log_px": LOG_PX.reshape(5, 10), "unreliable": flags().reshape(5, 10)}, "was not written by pyro_vae"),
        (None, "no such file"),
    ],
)
def test_other_arrays_are_refused(tmp_path, arrays, message):
    if arrays is not None:
        np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(BadInput, match=message):
        Scores.read(tmp_path / "a.npz")


def test_evidence_of_two_models_is_compared_in_python():
    def evidence(log_px, *flagged):
        values, zeros = torch.from_numpy(log_px), torch.zeros(N)
        return LogEvidence(values, zeros, 99 + zeros, zeros, values, 100, reliable=~torch.from_numpy(flags(*flagged)))

    found = Difference.of(evidence(LOG_PX + SHIFT, 3, 4), evidence(LOG_PX, 1, 2, 3))
    assert found == BETTER.minus(WORSE)
    with pytest.raises(BadInput, match="50 and 7 datapoints cannot be paired"):
        Difference.of(BETTER, evidence(LOG_PX[:7]))
