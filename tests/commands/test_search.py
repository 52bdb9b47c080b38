import os
import shlex
import sqlite3
from contextlib import closing

import pytest
from conftest import SMALL, one_error_line

from pyro_vae.commands import search, space
from pyro_vae.errors import BadInput
from pyro_vae.runs import checkpoint, metrics

optuna = pytest.importorskip("optuna")


@pytest.fixture
def small(small_data, tmp_path):
    runs = [*(s for s in SMALL if not s.startswith("latent_dim")), small_data]
    return [f"study={tmp_path / 'mine.db'}", *runs, f"hydra.run.dir={tmp_path / 'search'}"]


SPACE = [
    "+space.latent_dim={low:1,high:4}",
    "+space.optimizer.lr={low:1e-4,high:1e-1,log:true}",
    "+space.guide=[diagonal,point]",
]


def test_a_search_is_stored_and_goes_on(command, pictures, small, tmp_path):
    outcome = command("search", *small, *SPACE, "num_trials=3")
    assert outcome.code == 0, outcome.err
    study = optuna.load_study(study_name="pyro_vae", storage=f"sqlite:///{tmp_path / 'mine.db'}")
    assert len(study.trials) == 3
    for trial in study.trials:
        assert 1 <= trial.params["latent_dim"] <= 4
        assert 1e-4 <= trial.params["optimizer.lr"] <= 0.1
        assert trial.params["guide"] in ("diagonal", "point")
        rows = metrics.read(tmp_path / "search" / f"trial-{trial.number}")
        if trial.params["guide"] == "diagonal":  # the best of a point is by log p(x, z)
            assert trial.value == max(row["val/elbo"] for row in rows)
    assert (tmp_path / "search" / "search.png").stat().st_size > 1500
    assert f"latent_dim={study.best_params['latent_dim']}" in outcome.out.splitlines()[-1]
    first = [str(trial.params) for trial in study.trials]
    outcome = command("search", *small, *SPACE, "num_trials=2")
    assert outcome.code == 0, outcome.err
    again = optuna.load_study(study_name="pyro_vae", storage=f"sqlite:///{tmp_path / 'mine.db'}").trials
    assert [str(t.params) for t in again[:3]] == first
    assert len({str(t.params) for t in again}) == 5  # and does not repeat itself


@pytest.mark.slow
def test_a_study_of_other_runs_is_refused(command, small, tmp_path):
    """Whose values do not compare, and whose best is not a run of this command."""
    arguments = [*small, "+space.latent_dim=[1,2]", "num_trials=1"]
    assert command("search", *arguments, "optimizer.lr=-1").code == 2  # nothing to compare yet
    assert command("search", *arguments, "optimizer.lr=0.01").code == 0
    one_error_line(command("search", *arguments, "optimizer.lr=0.1"), "mine.db", "optimizer.lr=0.01", "another study")
    outcome = command("search", "optimizer.lr=0.01", *arguments, "trainer.device=cpu")
    assert outcome.code == 0, outcome.err


def test_a_choice_that_the_study_did_not_have_is_refused_and_leaves_no_open_trial(command, small, tmp_path):
    assert command("search", *small, "+space.latent_dim=[1,2]", "num_trials=1").code == 0
    one_error_line(command("search", *small, "+space.latent_dim=[1,3]", "num_trials=1"), "space.latent_dim=[1, 3]")
    study = optuna.load_study(study_name="pyro_vae", storage=f"sqlite:///{tmp_path / 'mine.db'}")
    assert [trial.state.is_finished() for trial in study.trials] == [True, True]


def test_workers_do_not_repeat_each_other(small, tmp_path):
    """Those that start at once, with nothing to learn from yet."""
    storage = f"sqlite:///{tmp_path / 'mine.db'}"
    one, other = (optuna.create_study(storage=storage, study_name="s", load_if_exists=True) for _ in range(2))
    values = [space.suggest(search.ask(study, 0), "lr", {"low": 0.0, "high": 1.0}) for study in (one, other, one)]
    assert len(set(values)) == 3


def test_choices_may_be_nothing_or_have_spaces(command, small, tmp_path):
    space = ["+space.trainer.clip_norm=[null]", "+space.network.hidden=[[4,5]]"]
    outcome = command("search", *small, *space, "num_trials=2")
    assert outcome.code == 0, outcome.err
    assert "minus that of other trials of this search ± standard error over the same 20 datapoints" in outcome.out
    last = outcome.out.splitlines()[-1]
    assert last.endswith("trainer.clip_norm=null 'network.hidden=[4, 5]'")
    command_line = shlex.split(last[last.index("pyro_vae.train") :])[1:]
    assert command("train", *command_line, f"hydra.run.dir={tmp_path / 'best'}").code == 0
    config = checkpoint.load(tmp_path / "best" / "checkpoints" / "best.pt")["config"]
    assert config["trainer"]["clip_norm"] is None
    assert config["network"]["hidden"] == [4, 5]


def test_trials_can_be_evaluated_from_anywhere(command, small, tmp_path, monkeypatch):
    relative = ["data.path=binary.npy" if option.startswith("data.path=") else option for option in small]
    assert command("search", *relative, "+space.latent_dim=[2]", "num_trials=1").code == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    outcome = command("evaluate", f"run={tmp_path / 'search' / 'trial-0'}", "estimator=elbo")
    assert outcome.code == 0, outcome.err


def test_a_trial_that_fails_does_not_end_the_search(command, small, tmp_path):
    outcome = command("search", *small, "+space.optimizer.lr=[1e-3,1e12]", "num_trials=5")
    assert outcome.code == 0, outcome.err
    assert "failed: " in outcome.out
    states = {
        t.state for t in optuna.load_study(study_name="pyro_vae", storage=f"sqlite:///{tmp_path / 'mine.db'}").trials
    }
    assert states == {optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.FAIL}


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["num_trials=0", "+space.latent_dim=[1,2]"], ["num_trials=0"]),
        ([], ["space is empty"]),
        (["+space.latent_dim={low:1}"], ["space.latent_dim", "low"]),
        (["+space.latent_dim=3"], ["space.latent_dim=3"]),
        (["+space.latent_dim={low:5,high:1}"], ["space.latent_dim"]),
        (["+space.banana=[1,2]"], ["banana"]),
        (["+space.guide=[banana]"], ["guide=banana"]),
    ],
)
def test_refuses_bad_spaces(command, small, arguments, parts):
    one_error_line(command("search", *small, *arguments), *parts)


def test_a_file_that_is_no_study_is_refused_and_kept(command, small, tmp_path):
    (tmp_path / "mine.db").write_bytes(b"hello" * 1000)
    one_error_line(command("search", *small, *SPACE), "cannot be opened as a study")
    assert (tmp_path / "mine.db").read_bytes() == b"hello" * 1000
    with pytest.raises(sqlite3.DatabaseError):
        sqlite3.connect(tmp_path / "mine.db").execute("SELECT * FROM trials")


def at(path, **kwargs):
    return optuna.create_study(storage=f"sqlite:///{path}", **kwargs)


@pytest.mark.parametrize(
    ("directions", "message"),
    [
        (["minimize"], "does not maximize one value (directions: minimize)"),
        (["maximize", "maximize"], "does not maximize one value (directions: maximize, maximize)"),
        (["maximize", "minimize"], "directions: maximize, minimize"),
    ],
)
def test_studies_of_other_directions_are_refused(directions, message, command, small, tmp_path):
    at(tmp_path / "mine.db", study_name="pyro_vae", directions=directions)
    one_error_line(command("search", *small, *SPACE), "mine.db", message, "another study=FILE.db")


def test_a_study_of_another_program_is_refused_and_kept(command, small, tmp_path):
    for name in ("mine", "other"):
        at(tmp_path / "mine.db", study_name=name, direction="maximize")
    before = (tmp_path / "mine.db").read_bytes()
    one_error_line(command("search", *small, *SPACE), "mine.db holds other studies, mine, other", "another study")
    assert (tmp_path / "mine.db").read_bytes() == before


def test_a_database_of_another_program_is_refused_and_kept(command, small, tmp_path):
    with closing(sqlite3.connect(tmp_path / "mine.db")) as database:
        database.execute("CREATE TABLE money (amount REAL)")
        database.commit()
    before = (tmp_path / "mine.db").read_bytes()
    one_error_line(command("search", *small, *SPACE), "mine.db is a database of another program", "another study")
    assert (tmp_path / "mine.db").read_bytes() == before


@pytest.mark.parametrize("table", ["studies", "trials", "version_info"])
def test_a_study_with_another_schema_is_refused(table, command, small, tmp_path):
    with closing(sqlite3.connect(tmp_path / "mine.db")) as database:
        database.execute(f"CREATE TABLE {table} (amount REAL)")
        database.commit()
    one_error_line(command("search", *small, *SPACE), "mine.db cannot be opened as a study", "another study")


def test_trials_that_cannot_be_read_are_refused(command, small, tmp_path):
    study = at(tmp_path / "mine.db", study_name="pyro_vae", direction="maximize")
    study.add_trial(optuna.create_trial(value=1.0))
    with closing(sqlite3.connect(tmp_path / "mine.db")) as database:
        database.execute("UPDATE trials SET state = 'BANANA'")
        database.commit()
    one_error_line(command("search", *small, *SPACE), "mine.db cannot be opened as a study")


@pytest.mark.parametrize("train", [3, ["a", 3], {"a": 1}, "text"])
def test_a_study_that_does_not_say_what_it_compares_is_refused(train, command, small, tmp_path):
    study = at(tmp_path / "mine.db", study_name="pyro_vae", direction="maximize")
    study.add_trial(optuna.create_trial(value=1.0))
    study.set_user_attr("train", train)
    one_error_line(command("search", *small, *SPACE), "mine.db does not record which runs it compares")


def test_trials_without_a_finite_value_are_not_the_best(command, small, tmp_path):
    study = at(tmp_path / "mine.db", study_name="pyro_vae", direction="maximize")
    study.add_trial(optuna.create_trial(value=float("inf")))
    outcome = command("search", *small, "+space.latent_dim=[2]", "num_trials=1")
    assert outcome.code == 0, outcome.err
    assert "best of 1: trial 1" in outcome.out


@pytest.mark.parametrize("kind", ["pipe", "folder"])
def test_a_study_that_is_not_a_file_is_not_waited_for(kind, command, small, tmp_path):
    os.mkfifo(tmp_path / "mine.db") if kind == "pipe" else (tmp_path / "mine.db").mkdir()
    one_error_line(command("search", *small, *SPACE), "mine.db is not a regular file")


def test_a_refused_search_leaves_no_directory_and_a_study_may_be_at_home(command, small_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    runs = ["study=~/mine.db", *(s for s in SMALL if not s.startswith("latent_dim")), small_data]
    one_error_line(command("search", *runs, "+space.latent_dim=[1]", "num_trials=0"), "num_trials=0")
    one_error_line(command("search", *runs, "+space.latent_dim=[0]", "num_trials=1"), "latent_dim=0")
    assert (tmp_path / "home" / "mine.db").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["binary.npy", "home"]


def test_leaves():
    assert dict(space.leaves({"a": {"b": [1], "c": {"low": 0, "high": 1}}})) == {
        "a.b": [1],
        "a.c": {"low": 0, "high": 1},
    }
    with pytest.raises(BadInput, match="space.a.b="):
        dict(space.leaves({"a": {"b": []}}))


@pytest.mark.slow
def test_options_that_do_not_go_together_do_not_end_the_search(command, small, tmp_path):
    """But if no trial at all has been possible, they are of all."""
    space = ["+space.guide=[diagonal,enumerated]", "num_trials=6"]
    outcome = command("search", *small, *space)
    assert outcome.code == 0, outcome.err
    assert "failed: the prior StandardNormal" in outcome.out
    assert "guide=diagonal" in outcome.out.splitlines()[-1]
    none = [f"study={tmp_path / 'b.db'}", "+space.guide=[enumerated]", "num_trials=2"]
    one_error_line(command("search", *small[1:], *none), "discrete")


def test_densities_and_probabilities_are_not_searched_together(command, small):
    densities = command("search", *small, "+space.likelihood=[continuous_bernoulli]", "num_trials=1")
    assert densities.code == 0, densities.err
    study = small[0].partition("=")[2]
    stored = optuna.load_study(study_name="pyro_vae", storage=f"sqlite:///{study}")
    with pytest.raises(BadInput, match="among them would be probabilities and densities: search options of one kind"):
        search._require_kind(stored, {**stored.user_attrs["kind"], "probabilities and densities": True})
    search._require_kind(stored, stored.user_attrs["kind"])
