"""`--help` of each command, and `python -m pyro_vae`."""

import subprocess
import sys

import pytest
from conftest import one_error_line

from pyro_vae import __main__
from pyro_vae.commands import compare, evaluate, help, score, search, train
from pyro_vae.errors import BadInput
from pyro_vae.runs import groups
from pyro_vae.runs.groups import CONFIG_DIR, comments, first_comment, options_of

DOCS = {"train": train, "evaluate": evaluate, "score": score, "compare": compare, "search": search}
MAX_LINES = {"train": 125, "evaluate": 60, "score": 72, "compare": 30, "search": 25}


def help_of(command, *arguments):
    return help.text(command, DOCS[command].__doc__, ["--help", *arguments])


def squeezed(text):
    return " ".join(text.split())


@pytest.mark.parametrize("command", DOCS)
def test_help_is_short_and_narrow(command):
    lines = help_of(command).splitlines()
    assert len(lines) <= MAX_LINES[command]
    assert max(map(len, lines)) <= help.WIDTH


@pytest.mark.parametrize("group", [group for group in options_of() if group not in help.ADDED])
def test_help_of_train_has_a_line_for_each_option(group):
    lines = [line[15:].lstrip("* ") for line in help_of("train").splitlines()]
    for name in options_of()[group]:
        comment = first_comment(f"{group}/{name}")
        assert comment
        assert any(line.split() == [name, *comment.split()] for line in lines), f"{group}/{name}.yaml: {comment}"


def test_help_of_train_marks_the_options_in_use_and_shows_their_settings():
    text = help_of("train")
    assert "* diagonal  " in text
    assert "* mixture  " not in text
    assert "trainer.       max_epochs=100 batch_size=100 " in text
    assert "latent_dim=20          dimensions of z" in text
    assert "hydra.run.dir=DIR" in text


def test_help_of_an_option_explains_its_settings():
    text = help_of("train", "guide=mixture", "latent_dim=3")
    assert "  * mixture " in text
    assert " guide.num_components=3 number of Gaussians" in squeezed(text)
    assert "likelihood" not in text
    assert "guide.num_components=5" in help_of("train", "guide=mixture", "guide.num_components=5")
    assert "guide=diagonal has no settings." in help_of("train", "guide")


def test_help_of_an_experiment_shows_what_it_changes():
    assert "With +experiment=iwae:\n  objective=iwae network.activation=relu " in help_of("train", "+experiment=iwae")
    listed = help_of("train", "experiment")
    assert all(f" {name} " in listed for name in options_of()["experiment"])
    assert "prior=class_conditional" in help_of("train", "conditioning=prior")
    assert "likelihood.scale=learned" in help_of("train", "data=table", "likelihood")  # which data=table chooses


@pytest.mark.parametrize("command", ["evaluate", "score", "compare", "search"])
def test_help_of_other_commands_is_about_their_own_options(command):
    text = help_of(command)
    for group in options_of():
        of_this = group == "estimator" and command in ("evaluate", "score")
        assert (f"\n  {group}=  " in text) == of_this, group
    for key in comments(command).keys() - {"defaults", "hydra", "data", "held_out", "train"}:
        assert key.startswith("hydra") or f"\n  {key}=" in text, key
    assert "required" in text


def test_estimators_settings_are_explained_where_they_are_used():
    assert " estimator.target_se=0.05 nats" in squeezed(help_of("evaluate"))
    of_ais = squeezed(help_of("evaluate", "run=x", "estimator=ais"))
    assert " estimator.num_temperatures=100 distributions between" in of_ais


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("guide=mixtur", r"guide=mixtur is unknown \(did you mean mixture\?\): choose one of"),
        ("gude", r"--help gude: not a group of options \(did you mean guide\?\): choose one of data"),
        ("gude=mixture", r"gude is not a key .*did you mean guide\?"),
        ("max_epochs=3", r"max_epochs is not a key .*did you mean trainer.max_epochs\?"),
    ],
)
def test_help_of_what_does_not_exist_is_an_error(argument, message):
    with pytest.raises(BadInput, match=message):
        help_of("train", argument)
    with pytest.raises(BadInput, match="--help guide: not a group of options"):
        help_of("compare", "guide")


def test_comments_go_on_in_the_next_line_and_hold_for_keys_below(tmp_path, monkeypatch):
    text = "# @package _global_\n# first\n# second\n_target_: a.b\nn: 1  # one\n      # two\n\n"
    text += "data:  # of all\n  path: null\n  key: null  # own\nplain: 3\n"
    (tmp_path / "x.yaml").write_text(text)
    monkeypatch.setattr(groups, "CONFIG_DIR", tmp_path)
    assert first_comment("x") == "first"
    found = comments("x")
    assert (found["n"], found["data.path"], found["data.key"], found["plain"]) == ("one two", "of all", "own", "")


def test_every_setting_has_a_comment():
    for path in CONFIG_DIR.glob("[!eh]*/*.yaml"):  # neither experiment nor hydra
        name = path.relative_to(CONFIG_DIR).with_suffix("").as_posix()
        if path.parent.name in ("launcher", "conditioning"):
            continue
        missing = [key for key, comment in comments(name).items() if not comment and key not in ("defaults",)]
        assert [key for key in missing if not key.startswith("_")] == [], name


@pytest.mark.parametrize("command", ["evaluate", "benchmark"])
def test_help_of_other_commands_needs_no_torch(command):
    module = "pyro_vae.benchmark.__main__" if command == "benchmark" else f"pyro_vae.{command}"
    code = f"import sys, {module} as m; sys.argv[1:] = ['--help']; m.main(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_package_lists_its_commands(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pyro_vae"])
    __main__.main()
    out = capsys.readouterr().out
    package = CONFIG_DIR.parent / "pyro_vae"
    doors = {path.stem for path in package.glob("*.py") if 'if __name__ == "__main__"' in path.read_text()}
    for name in (doors - {"__main__"}) | {"benchmark"}:
        assert f"python -m pyro_vae.{name} " in out
    assert "python -m pyro_vae.train +experiment=bernoulli" in out
    assert max(map(len, out.splitlines())) <= help.WIDTH


def test_the_package_runs_a_command_and_names_typos(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["pyro_vae", "evaluate", "--help"])
    monkeypatch.delitem(sys.modules, "pyro_vae.evaluate", raising=False)
    __main__.main()
    assert " run= required: the run directory" in squeezed(capsys.readouterr().out)
    monkeypatch.setattr(sys, "argv", ["pyro_vae", "trian"])
    with pytest.raises(SystemExit) as stop:
        __main__.main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == (
        "error: trian is unknown (did you mean train?): choose one of train, evaluate, score, compare, search, "
        "benchmark\n"
    )


def test_an_option_that_does_not_exist_beside_help_exits_with_2(command):
    one_error_line(command("evaluate", "--help", "estimator=iass"), "estimator=iass is unknown", "choose one of ais")
