"""Wrong calls of each kind end in one line that names the value, before any work is done."""

from __future__ import annotations

import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pyro_vae
from pyro_vae import analysis
from pyro_vae.analysis import imputation
from pyro_vae.errors import BadInput, FailedRun, one_line
from pyro_vae.guides import Diagonal
from pyro_vae.marginal import AIS, ELBO, Importance, Refined
from pyro_vae.runs.config import compose

X = np.tile(np.eye(6, dtype=np.float32), (5, 1))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("likelihood=3", "likelihood=3 is unknown: choose one of bernoulli"),
        ("likelihood=[]", r"likelihood=\[\] is unknown"),
        ("guide={}", r"guide=\{\} is unknown"),
        ("guide=[[1,2],[3]]", r"guide=\[\[1, 2\], \[3\]\] is unknown"),
        ("~prior", "prior is not an option of conf/prior: choose one of categorical"),
        ("data._target_=3", "data is not an option of conf/data"),
        ("optimizer._partial_=null", "optimizer._partial_=None must be true or false"),
        ("optimizer.lr=banana", "optimizer.lr=banana must be a finite number"),
        ("optimizer.eps=true", "optimizer.eps=True must be a finite number"),
        ("optimizer.betas=0.9", r"optimizer.betas=0.9 must be a list of numbers, as in optimizer.betas=\[0.9, 0.999\]"),
        ("trainer.max_seconds=1000000000000000000000", "trainer.max_seconds=1000000000000000000000 must be at most"),
        ("trainer.max_epochs=???", "trainer.max_epochs is missing"),
        ("network.hidden={}", "network.hidden must be a list"),
    ],
)
def test_settings_that_no_run_can_use_are_refused_before_the_work(override, message):
    with pytest.raises(BadInput, match=f"^{message}"):
        compose([override])


def test_the_commands_refuse_them_too(command, small_data, tmp_path):
    for override, key in [("guide=[]", "guide"), ("data._target_=1", "data"), ("trainer.clip_norm=1e400", "clip_norm")]:
        outcome = command("train", small_data, "data=array", override)
        assert outcome.code == 2
        assert key in outcome.err
        assert len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("deleted", ["split", "device"])
def test_evaluate_names_a_key_that_was_deleted(command, deleted):
    outcome = command("evaluate", f"~{deleted}")
    assert (outcome.code, outcome.err) == (2, f"error: {deleted} is missing: give {deleted}=VALUE\n")


@pytest.mark.parametrize("error", [BadInput, FailedRun])
def test_messages_have_one_line_and_no_control_sequences(error):
    assert str(error("x=a\nb\x1b[2J must be")) == r"x=a\nb\x1b[2J must be"


def test_messages_of_torch_come_without_its_cpp_frames():
    error = RuntimeError("needs avx512bw\nException raised from f at Matmul.cpp:357 (most recent call first):")
    assert one_line(error) == "needs avx512bw"


class Silent:
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Broken(Diagonal):
    def __init__(self, num_features, latent_dim):
        raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": Silent()}, r"seed=\(an object of type Silent\) cannot be used: .* type Silent"),
        ({"latent_dim": b"ab"}, "latent_dim=b'ab'"),
        ({"likelihood": []}, r"likelihood=\[\] is unknown"),
        ({"lr": "???"}, r"^lr=\?\?\? cannot be used"),
        ({"overrides": [3]}, r"overrides=\[3\] must be a list of options"),
        ({"overrides": (option for option in ["seed=1"])}, "overrides=<generator .* must be a list of options"),
        ({"overrides": ["data=digits"]}, "the override data is for the command: the data of fit are x and y"),
        ({"overrides": ["+data.path=x.npy"]}, "the override data.path is for the command"),
        ({"overrides": ["resume=run"]}, "the override resume is for the command: the run directory of fit is run_dir"),
        ({"overrides": ["hydra.run.dir=run"]}, "the override hydra.run.dir is for the command"),
        ({"run_dir": ""}, "the path is empty: give a directory"),
        ({"guide": "../data/mnist"}, r"guide=\.\./data/mnist is unknown: choose one of categorical"),
        ({"guide": (Diagonal, {"width": 3})}, "guide.width is not a setting of this option"),
        ({"guide": ("low_rank", {"_target_": "os.system"})}, "guide._target_=os.system does not apply to .*: .* rank$"),
        ({"prior": ("standard_normal", {"width": 3})}, "prior.width=3 does not apply to .*: it has no settings"),
        ({"objective": torch.ones(2)}, "settings that cannot be read from its attributes"),
        ({"guide": Broken}, "^guide: RuntimeError: broken$"),
        ({"overrides": ["lr=3"]}, r"^the override lr is a parameter of fit: give fit\(..., lr=VALUE\)$"),
        ({"overrides": ["~latent_dim"]}, "^latent_dim is missing: give latent_dim=VALUE$"),
        ({"overrides": ["~nothing"]}, "^nothing cannot be deleted: it is not a key of the configuration$"),
        ({"overrides": ["latent_dim"]}, "^latent_dim has no value: write latent_dim=VALUE, without spaces around =$"),
        ({"overrides": ["=3"]}, "^an option without a key cannot be read: write KEY=VALUE$"),
        (
            {"overrides": ["latent_dim=1,2"]},
            r"^latent_dim=1,2 holds several values: write latent_dim=\[1,2\] for a list",
        ),
        (
            {"overrides": ["latent_dim=${foo}"]},
            "^latent_dim refers to a key or value that does not exist: .*'foo' not found$",
        ),
        ({"overrides": ["guide._target_=os.system"]}, "^guide: Target 'os.system' is blocklisted$"),
        ({"run_dir": 3}, "3 is not a path"),
        ({"run_dir": "x" * 5000}, "xxx.*: File name too long"),
        ({"run_dir": "/dev/null"}, "run_dir=/dev/null cannot be created"),
    ],
)
def test_fit_names_what_it_cannot_use(settings, message):
    with pytest.raises(BadInput, match=message):
        pyro_vae.fit(X, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_epochs": 0}, "max_epochs=0 must be"),
        ({"batch_size": 1.5}, "batch_size=1.5 must be"),
        ({"lr": "fast"}, "lr=fast must be a finite number"),
        ({"val_fraction": 3}, "val_fraction=3 must be"),
        ({"binarize": "maybe"}, "binarize=maybe is unknown"),
        ({"overrides": ["trainer.max_epochs=0"]}, "trainer.max_epochs=0 must be"),
        ({"overrides": ["trainer.clip_norm=0"]}, "trainer.clip_norm=0 must be"),
    ],
)
def test_fit_calls_options_as_its_caller_does(settings, message):
    with pytest.raises(BadInput, match=f"^{message}"):
        pyro_vae.fit(X, **settings)


def test_so_do_its_advice_and_its_warnings(caplog):
    overrides = ["network.hidden=[4]", "optimizer=sgd"]
    with pytest.raises(FailedRun, match="try a smaller learning rate or trainer.clip_norm=10"):
        pyro_vae.fit(30 * X, likelihood="gaussian", lr=1e30, max_epochs=5, overrides=overrides)
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    pyro_vae.fit(x, likelihood="gaussian", lr=1e-30, max_epochs=1, overrides=["likelihood.init_scale=9"])
    assert any("train longer (max_epochs) or raise lr" in message for message in caplog.messages)


@pytest.mark.parametrize("number", ["5", "-1.5e3", "[3]", "True", "", 0, 1.5, True, [3], 10**30])
def test_methods_call_numbers_as_their_caller_does(small_vae, number):
    for name, call in {
        "n": small_vae.sample,
        "num_samples": lambda value: small_vae.log_prob(X, num_samples=value),
    }.items():
        with pytest.raises(BadInput, match=f"^{name}={re.escape(repr(number))} must be"):
            call(number)


@pytest.mark.parametrize("device", ["cpu:9", "cuda:99", "banana", "meta", torch.device("cpu", 9)])
def test_load_names_a_device_that_is_not_there(small_run, device):
    with pytest.raises(BadInput, match=f"^device={device} is not available here"):
        pyro_vae.load(small_run, device=device)


@pytest.mark.parametrize("trust", [3, [1], [["a"]], True])
def test_trust_is_a_list_of_names(small_run, trust):
    with pytest.raises(BadInput, match="trust=.* must be a list of names"):
        pyro_vae.load(small_run, trust=trust)


def test_methods_take_data_that_the_likelihood_can_give_only(small_vae):
    for method in (small_vae.encode, small_vae.reconstruct):
        with pytest.raises(BadInput, match=r"needs values in \[0, 1\]"):
            method(255 * X)
    for call in (lambda: small_vae.sample(2, mean="no"), lambda: small_vae.impute(X, mean=1)):
        with pytest.raises(BadInput, match="mean=.* must be true or false"):
            call()


# The estimators' programs

x = torch.from_numpy(X[:4])


def model(x, y=None):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Gamma(torch.ones(2), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=z.sum(-1, keepdim=True).expand(*z.shape[:-1], 6)).to_event(1), obs=x)


def guide_of(distribution, site="z", dim=2):
    def guide(x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample(site, distribution(torch.ones(len(x), dim), torch.ones(len(x), dim)).to_event(1))

    return guide


def poisson(rate, _):
    return dist.Poisson(rate)


def shared(x, y=None):
    pyro.sample("w", dist.Normal(0.0, 1.0))
    model(x)


def subsampled(x, y=None):
    with pyro.plate("data", 4, subsample_size=2) as rows:
        z = pyro.sample("z", dist.Gamma(torch.ones(2), 1.0).to_event(1))
        pyro.sample("x", dist.Bernoulli(logits=z.sum(-1, keepdim=True).expand(2, 6)).to_event(1), obs=x[rows])


def without_plate(x, y=None):
    z = pyro.sample("z", dist.Gamma(torch.ones(len(x), 2), 1.0).to_event(2))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Bernoulli(logits=z.sum(-1, keepdim=True).expand(*z.shape[:-1], 6)).to_event(1), obs=x)


GUIDE = guide_of(dist.Gamma)


@pytest.mark.parametrize(
    ("programs", "message"),
    [
        ((model, guide_of(dist.Normal)), "guide draws site z outside its support in the model"),
        ((model, guide_of(poisson)), "site z is continuous in the model and discrete in the guide"),
        ((model, guide_of(dist.Gamma, site="u")), "site z of the model is not in the guide"),
        ((model, guide_of(dist.Gamma, dim=3)), "do not run on several samples of x at once"),
        ((shared, GUIDE), "site w of the model is not in the guide"),
        ((subsampled, GUIDE), "do not run on several samples of x at once"),
        ((without_plate, GUIDE), "site z of the model is not in a plate of the datapoints"),
        ((lambda x: None, lambda x: None), "the model has no sites"),
        ((None, GUIDE), "model has type NoneType and is not a Pyro program"),
        ((torch.nn.Module(), GUIDE), "model has type Module and is not a Pyro program"),
    ],
)
def test_programs_that_do_not_match_are_refused(programs, message):
    for estimator in (Importance(4), ELBO(4), Refined(4), AIS(2, 3)):
        with pytest.raises(BadInput, match=message):
            estimator(*programs, x)
    for call in (
        lambda: analysis.gaps(*programs, x, Importance(4)),
        lambda: analysis.surgery(*programs, x),
        lambda: imputation.impute(*programs, x, x > 0, num_steps=1),
    ):
        with pytest.raises(BadInput, match=message):
            call()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X,), "x has type ndarray: give a tensor"),
        ((None,), "x has type NoneType"),
        ((torch.tensor(1.0),), r"x has shape \[\]"),
        ((x[:0],), "x is empty"),
        ((x.to_sparse(),), "x is a sparse tensor"),
        ((x.to("meta"),), "x is a tensor on the meta device"),
        ((x, torch.zeros(3)), "y has 3 labels for 4 datapoints"),
    ],
)
def test_estimators_and_analyses_take_tensors(data, message):
    first, *labels = data
    for call in (
        lambda: Importance(4)(model, GUIDE, *data),
        lambda: analysis.surgery(model, GUIDE, *data),
        lambda: analysis.gaps(model, GUIDE, first, Importance(4), *labels),
        lambda: imputation.impute(model, GUIDE, first, x > 0, *labels),
    ):
        with pytest.raises(BadInput, match=message):
            call()


@pytest.mark.parametrize("number", [None, "many", -1, 0, 1.5, 10**30, [3], float("nan")])
def test_analyses_take_positive_integers(number):
    for name in ("num_samples", "chunk_size"):
        with pytest.raises(BadInput, match=f"{name}="):
            analysis.surgery(model, GUIDE, x, **{name: number})
    for name in ("num_samples", "chunk_size", "num_steps"):
        with pytest.raises(BadInput, match=f"{name}="):
            analysis.gaps(model, GUIDE, x, Importance(4), **{name: number})


@pytest.mark.parametrize("option", ["chunk_size", "compile", "family", "num_elbo_steps", "guide_weight"])
def test_options_of_estimators_may_be_anything(option):
    for value in (np.array([2, 3]), Silent(), 10**5000):
        with pytest.raises(BadInput, match=f"^{option}="):
            Refined(**{option: value})


def test_impute_needs_a_site_x():
    def other(x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Gamma(torch.ones(2), 1.0).to_event(1))
            pyro.sample("obs", dist.Bernoulli(z.sum(-1, keepdim=True).expand(*z.shape[:-1], 6) * 0).to_event(1), obs=x)

    with pytest.raises(BadInput, match="no site x"):
        imputation.impute(other, GUIDE, x, x > 0)


def test_a_run_refused_by_its_trainer_leaves_nothing(command, small_data, tmp_path):
    options = ["+experiment=em_ppca", "data=array", small_data, "data.binarize=none", "likelihood.scale=learned"]
    outcome = command("train", *options)
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert "provide them as a .npz file" in outcome.err
    assert not (tmp_path / "outputs").exists()


def test_runs_may_change_into_their_directory(command, small_data):
    options = ["network.hidden=[4]", "latent_dim=1", "trainer.max_epochs=1", "estimator=none", "plots=false"]
    assert command("train", "data=array", small_data, *options, "hydra.job.chdir=true").code == 0
