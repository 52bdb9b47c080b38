"""Options that need others are refused once, with a whole command that works."""

import shlex

import numpy as np
import pytest
import torch
from conftest import one_error_line

import pyro_vae
from pyro_vae.errors import BadInput

COMMAND = ": python -m pyro_vae.train "
TINY = [
    "data=array", "data.path=labelled.npz", "data.key=x", "data.label_key=y", "network.hidden=[4]",
    "network.upper_hidden=[4]", "trainer.max_epochs=1", "plots=false", "second_estimator=false",
]  # fmt: skip
DISCRETE = "prior=categorical guide=categorical objective=score_function"


@pytest.fixture
def labelled(tmp_path):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "labelled.npz", x=(rng.random((40, 5)) < 0.5).astype(np.float32), y=np.arange(40) % 3)


slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("options", "reason", "works"),
    [
        ("guide=enumerated", "is discrete", DISCRETE.replace("guide=categorical", "guide=enumerated")),
        pytest.param("guide=categorical", "is discrete", DISCRETE, marks=slow),
        pytest.param("prior=categorical", "is continuous", DISCRETE, marks=slow),
        pytest.param("guide=categorical prior=categorical objective=iwae", "reparameterized", DISCRETE, marks=slow),
        pytest.param(f"{DISCRETE} estimator=refined", "is discrete", f"{DISCRETE} estimator=auto", marks=slow),
        pytest.param("guide=point objective=iwae", "is a point", "guide=point objective=trace_elbo", marks=slow),
        ("conditioning=prior prior=mixture", "depends on y", "conditioning=prior prior=class_conditional"),
        pytest.param("prior=vamp guide=enumerated", "prior=vamp needs", "prior=vamp guide=diagonal", marks=slow),
        pytest.param("prior=vamp latent_dim=[3,2]", "prior=vamp needs", "prior=vamp latent_dim=3", marks=slow),
        pytest.param(
            "guide=semi_amortized latent_dim=[3,2]", "a single stochastic layer", "guide=semi_amortized latent_dim=3",
            marks=slow,
        ),
        # the experiment sets guide.gain, which no other guide has: the guide stays
        pytest.param(
            "+experiment=bernoulli_full_covariance prior=categorical data.binarize=none", "is discrete",
            "+experiment=bernoulli_full_covariance prior=standard_normal data.binarize=none", marks=slow,
        ),
    ],
)  # fmt: skip
def test_one_refusal_and_one_working_command(command, labelled, options, reason, works):
    refused = command("train", *options.split(), *TINY)
    one_error_line(refused, reason, COMMAND)
    suggested = shlex.split(refused.err.strip().split(COMMAND)[1])
    assert sorted(suggested) == sorted([*works.split(), *TINY])
    trained = command("train", *suggested, "hydra.run.dir=run")
    assert trained.code == 0, trained.err


def test_a_suggestion_says_what_it_replaces_and_keeps_the_directory(command, labelled):
    options = ["guide=enumerated", "estimator=refined", "estimator.num_elbo_steps=3", *TINY, "hydra.run.dir=run"]
    refused = command("train", *options)
    one_error_line(refused, "; this works, with another estimator" + COMMAND, " hydra.run.dir=run")
    trained = command("train", *shlex.split(refused.err.strip().split(COMMAND)[1]))
    assert trained.code == 0, trained.err


def test_fit_says_which_option_given_its_suggestion_replaces():
    x = torch.rand(30, 4).round()
    with pytest.raises(BadInput, match=r"; this works, with another guide: fit\(..., guide='diagonal'\)$"):
        pyro_vae.fit(x, prior="vamp", guide="enumerated", max_epochs=1, verbose=False)


def test_fit_suggests_nothing_that_would_ignore_labels():
    x, y = torch.rand(30, 4).round(), torch.arange(30) % 3
    with pytest.raises(BadInput, match="this works, with another prior: ") as caught:
        pyro_vae.fit(x, y, experiment="conditional_concat", prior="vamp", max_epochs=1, verbose=False)
    assert "conditioning='none'" not in str(caught.value)


def test_options_that_cannot_be_completed_keep_their_own_remedy(command, labelled):
    one_error_line(command("train", "trainer=exact_em", "guide=categorical", *TINY[:-4]), "combine prior=categorical")


@pytest.mark.parametrize(
    ("options", "works"),
    [
        ({"guide": "enumerated"}, {"prior": "categorical", "objective": "score_function"}),
        ({"guide": ("semi_amortized", {"num_steps": 1}), "latent_dim": [3, 2]}, {"latent_dim": "3"}),
    ],
)
def test_fit_names_all_companions_at_once(options, works):
    x = torch.rand(30, 4).round()
    short = {"max_epochs": 1, "verbose": False, "network": ("mlp", {"hidden": [4], "upper_hidden": [4]})}
    call = ", ".join(f"{name}={value!r}" for name, value in works.items())
    with pytest.raises(BadInput) as caught:
        pyro_vae.fit(x, **options, **short)
    assert str(caught.value).endswith(f": fit(..., {call})".replace("'3'", "3"))
    changes = {name: int(value) if name == "latent_dim" else value for name, value in works.items()}
    pyro_vae.fit(x, **options | changes, **short)
