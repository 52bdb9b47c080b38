import pytest

from pyro_vae import cli
from pyro_vae.errors import BadInput, one_line


def test_resume_becomes_hydras_run_directory():
    assert cli.resumed(["seed=1"]) == ["seed=1"]
    assert cli.resumed(["resume=null"]) == ["resume=null"]
    assert "hydra.run.dir=a" in cli.resumed(["++resume=a"])
    assert cli.resumed(["resume=a/b"]) == ["resume=a/b", "hydra.run.dir=a/b", "hydra.output_subdir=null"]


def test_check_run_directory(tmp_path):
    cli.check_run_directory(tmp_path, resume=False)
    with pytest.raises(BadInput, match="no run"):
        cli.check_run_directory(tmp_path, resume=True)
    (tmp_path / "checkpoints").mkdir()  # a run that could not save anything may be started again
    cli.check_run_directory(tmp_path, resume=False)
    (tmp_path / "checkpoints" / "last.pt").touch()
    cli.check_run_directory(tmp_path, resume=True)
    with pytest.raises(BadInput, match="already holds"):
        cli.check_run_directory(tmp_path, resume=False)


def test_one_line():
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line(ValueError("x" * 1000))) == 300


def test_help_of_evaluate_lists_its_options_alone(command):
    out = command("evaluate", "--help").out
    assert "estimator=ais|bdmc|elbo|exact|importance|nuts|prior|refined" in out
    assert "guide=" not in out
    assert "run: ???" in out


def test_hydras_own_flags_work(command):
    out = command("train", "--cfg", "job", "latent_dim=7").out
    assert "latent_dim: 7" in out
