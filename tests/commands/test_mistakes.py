"""Mistakes that newcomers make: one line names the value and the fix, and nothing is left behind."""

import pytest
from conftest import one_error_line

SPLIT = "a bracket is missing; put lists in quotes"
MISTAKES = [
    # typos
    ("train", ["gude=mixture"], ["gude is not a key", "did you mean guide?"]),
    ("train", ["guide=mixtur"], ["guide=mixtur is unknown (did you mean mixture?): choose one of categorical"]),
    ("train", ["+experiment=kingma_weling/mnist"], ["did you mean kingma_welling/mnist?"]),
    ("train", ["trainer.max_epoch=5"], ["trainer.max_epoch is not a key", "did you mean max_epochs?"]),
    ("train", ["max_epoch=5"], ["did you mean trainer.max_epochs?"]),
    ("train", ["guide.rank=3"], ["guide.rank is not a key", "it has no settings"]),
    ("evaluate", ["estimator=importnce"], ["did you mean importance?"]),
    ("evaluate", ["num_sample=10"], ["did you mean estimator.num_samples?"]),
    ("evaluate", ["analysis=gap"], ["analysis=gap is unknown (did you mean gaps?)"]),
    ("score", ["path=x.npy"], ["did you mean data.path or held_out.path?"]),
    ("compare", ["runs=[a,b]"], ["did you mean run?"]),
    ("search", ["study=s.db", "+space.latnet_dim=[2,3]"], ["latnet_dim is not a key", "did you mean latent_dim?"]),
    ("search", ["study=s.db", "+space.guide=[mixtur]"], ["space.guide=mixtur is unknown (did you mean mixture?)"]),
    ("search", ["study=s.db", "+space.latent_dim=[2,3]", "num_trial=3"], ["did you mean num_trials?"]),
    # what the shell or Hydra reads otherwise
    ("train", ["latent_dim=[100,", "50]"], ["latent_dim=[100, cannot be read", SPLIT, "'latent_dim=[A,B]'"]),
    ("train", ["latent_dim=100,50"], ["write latent_dim=[100,50] for a list", "add -m"]),
    ("train", ["latent_dim=(100,50)"], ["write lists in brackets, as in 'latent_dim=[100,50]'"]),
    ("train", ["guide=diagonal,mixture"], ["choose one, or add -m"]),
    ("train", ["guide=[diagonal,mixture]"], ["guide=['diagonal', 'mixture'] is unknown"]),
    ("train", ["latent_dim", "=", "3"], ["latent_dim has no value: write latent_dim=VALUE, without spaces"]),
    ("train", ["latent_dim=", "3"], ["3 cannot be read", "without spaces around ="]),
    ("train", ["--latent_dim=3"], ["--latent_dim=3 is not a flag", "write latent_dim=3"]),
    ("train", ["--latent_dim", "3"], ["options have no dashes, write latent_dim=VALUE"]),
    ("train", ["--hlep"], ["did you mean --help?"]),
    ("train", ["--cfg", "foo"], ["--cfg", "foo", "job"]),
    ("train", ["help"], ["add --help"]),
    ("train", ["guide: mixture"], ["write guide=mixture"]),
    ("train", ["bernoulli"], ["write +experiment=bernoulli or likelihood=bernoulli"]),
    ("train", ["x.npy"], ["x.npy has no key", "data.path=FILE"]),
    ("train", ["seed=1 latent_dim=3"], ["seed=1 latent_dim=3 holds several options"]),
    ("train", [""], ["an empty argument cannot be read"]),
    ("evaluate", ["outputs/bernoulli/1"], ["outputs/bernoulli/1 has no key", "as in run=DIR"]),
    ("evaluate", ["--run=a"], ["--run=a has dashes: write run=a"]),
    ("evaluate", ["run"], ["run has no value"]),
    ("evaluate", ["run=[a,b]"], ["run=['a', 'b'] lists several", "pyro_vae.compare"]),
    ("compare", ["run=a,b"], ["write run=[a,b] for a list"]),
    # + or none
    ("train", ["experiment=bernoulli"], ["write +experiment=bernoulli"]),
    ("train", ["++experiment=bernoulli"], ["write +experiment=bernoulli"]),
    ("train", ["+guide=mixture"], ["write guide=mixture, without +"]),
    ("train", ["+experiment=iwae", "+experiment=ring"], ["a second option of experiment: choose one"]),
    ("train", ["+seed=3"], ["write seed=VALUE, without +"]),
    ("evaluate", ["run=a", "guide=mixture"], ["guide is not an option of this command: leave it out"]),
    ("evaluate", ["run=a", "+experiment=ring"], ["experiment is not an option of this command"]),
    # values and places
    ("train", ["latent_dim=100 50"], ["latent_dim=100 50 must be an integer, or a list", "[100,50]"]),
    ("train", ["trainer.device=gpu"], ["trainer.device=gpu is not available here: use cpu or auto"]),
    ("train", ["+trainer.foo=1"], ["trainer.foo is not a setting of this option"]),
    ("train", ["resume=nope"], ["nope is not a run", "give the directory that training printed"]),
    ("train", ["resume=x.csv"], ["resume=x.csv is a file: give a directory"]),
    ("train", ["hydra.run.dir=x.csv"], ["hydra.run.dir=x.csv is a file: give a directory"]),
    ("evaluate", ["run=nope"], ["nope is not a run directory: it does not exist"]),
    ("evaluate", ["run=x.csv"], ["x.csv is not a run directory: it is a file"]),
    ("compare", ["run=[a,b]", "evaluation=auto"], ["evaluation=auto must be NAME-K"]),
    ("search", ["study=s.db", "+space.latent_dim=[2,3]", "sampler_seed=x"], ["sampler_seed=x must be an integer"]),
    ("search", ["study=s.db", "+space.latent_dim=[2,3]", "resume=a"], ["resume: a search starts new runs"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "parts"), MISTAKES)
def test_a_mistake_is_explained_in_one_line(command, small_data, tmp_path, name, arguments, parts):
    if name == "search":
        pytest.importorskip("optuna")
    if name == "train" and not any(argument.startswith("resume") for argument in arguments):
        arguments = [*arguments, "data=array", small_data]
    (tmp_path / "x.csv").write_text("a\n1\n")
    outcome = command(name, *arguments)
    one_error_line(outcome, *parts)
    assert outcome.out == ""
    assert {path.name for path in tmp_path.iterdir()} == {"x.csv", *(["binary.npy"] if small_data else [])}


def test_space_may_be_given_without_a_plus(command):
    assert "latnet_dim is not a key" in command("search", "study=s.db", "space.latnet_dim=[2,3]").err


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["data.path=nope.npy"], ["nope.npy: no such file"]),
        (["guide=categorical"], ["this works: python -m pyro_vae.train"]),
        (["network.hidden=16"], ["network.hidden=16 must be a list"]),
        (["likelihood=poisson", "data.standardize=true"], ["data.standardize=true needs"]),
    ],
)
def test_rejected_data_and_options_print_their_error_alone(command, small_data, tmp_path, arguments, parts):
    """Messages before the rejection, such as the run directory, are not shown."""
    outcome = command("train", "data=array", small_data, *arguments)
    one_error_line(outcome, *parts)
    assert outcome.out == ""
    assert not (tmp_path / "outputs").exists()


def test_a_search_whose_trials_are_all_rejected_prints_their_error_alone(command, small_data, tmp_path):
    pytest.importorskip("optuna")
    options = ["study=s.db", "+space.latent_dim=[-1,0]", "num_trials=2", "data=array", small_data]
    outcome = command("search", *options)
    one_error_line(outcome, "latent_dim=", "must be an integer of at least 1")
    assert outcome.out == ""
    assert not (tmp_path / "outputs").exists()
