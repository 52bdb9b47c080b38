import shlex
import subprocess
import sys

import hydra
import pytest
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

import pyro_vae
from pyro_vae.commands import shell
from pyro_vae.errors import BadInput, one_line
from pyro_vae.runs.config import CONFIG_DIR, option
from pyro_vae.runs.directory import check_run_directory


def test_resume_becomes_hydras_run_directory():
    assert shell.resumed(["seed=1"]) == ["seed=1"]
    assert shell.resumed(["resume=null"]) == ["resume=null"]
    assert "hydra.run.dir=a" in shell.resumed(["++resume=a"])
    assert shell.resumed(["resume=a/b"]) == ["resume=a/b", "hydra.run.dir=a/b", "hydra.output_subdir=null"]
    assert shell.resumed(["resume=a", "trainer.tolerance=1", "+estimator.k=2", "estimator=ais"])[1:4] == [
        "++trainer.tolerance=1", "++estimator.k=2", "estimator=ais",
    ]  # fmt: skip


def test_home_is_where_paths_begin_with_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    arguments = [
        "resume=~",
        "+data.path='~/x.npy'",
        "data.test_path=~/y.npy",
        "held_out.val_path=~/z.npy",
        "hydra.sweep.dir=~/s",
        "study=~/a~b",
        "seed=~1",
        "~guide",
        "run=a/~",
    ]
    assert shell.expand_home(arguments) == [
        "resume=/home/me", "+data.path='/home/me/x.npy'", "data.test_path=/home/me/y.npy",
        "held_out.val_path=/home/me/z.npy", "hydra.sweep.dir=/home/me/s", "study=/home/me/a~b",
        "seed=~1", "~guide", "run=a/~",
    ]  # fmt: skip


def test_check_run_directory(tmp_path):
    check_run_directory(tmp_path, resume=False)
    with pytest.raises(BadInput, match="is not a run"):
        check_run_directory(tmp_path, resume=True)
    (tmp_path / "checkpoints").mkdir()  # a run that could not save anything may be started again
    check_run_directory(tmp_path, resume=False)
    (tmp_path / "checkpoints" / "last.pt").touch()
    check_run_directory(tmp_path, resume=True)
    with pytest.raises(BadInput, match="already holds"):
        check_run_directory(tmp_path, resume=False)


def test_the_directory_of_a_sweep_is_one_for_all_processes(monkeypatch):
    monkeypatch.setenv("PYRO_VAE_TIME", "2026-01-01_00-00-00")
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        config = hydra.compose("train", ["+experiment=bernoulli"], return_hydra_config=True)
    assert {config.hydra.run.dir, config.hydra.sweep.dir} == {"outputs/bernoulli/2026-01-01_00-00-00"}


def test_one_line():
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(KeyError()) == "KeyError"
    assert len(one_line(ValueError("x" * 1000))) == 300


def test_hydras_own_flags_work(command):
    out = command("train", "--cfg", "job", "latent_dim=7").out
    assert "latent_dim: 7" in out


def test_version_is_that_of_this_package(command):
    assert command("train", "--version").out == f"pyro_vae {pyro_vae.__version__}\n"


def test_what_is_to_be_pasted_is_quoted_for_the_shell_and_for_hydra(tmp_path):
    for name in ("plain-1.0_x", "a b=ö", "it's", "a~b"):
        pasted = shlex.split(f"train {option('resume', tmp_path / name)} seed=1")
        assert len(pasted) == 3
        override = OverridesParser.create().parse_override(pasted[1].replace("resume=", "hydra.run.dir="))
        assert override.value() == str(tmp_path / name)
    assert option("resume", "outputs/a_b-1/2026-11-21_10-00-00") == "resume=outputs/a_b-1/2026-11-21_10-00-00"


def test_a_reader_that_closes_the_output_gets_no_error_message():
    command = f"{shlex.quote(sys.executable)} -m pyro_vae.train --help"
    done = subprocess.run(["bash", "-c", f"{command} | true"], capture_output=True, text=True)
    assert done.stderr == ""
