"""Whatever a class from outside the package does wrong is refused in one line that names it."""

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from own_families import Doubled, FixedScale, LaplaceLikelihood, LaplacePrior, Linear
from torch import nn

import pyro_vae
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal
from pyro_vae.likelihoods import Bernoulli
from pyro_vae.networks import MLP
from pyro_vae.objectives import Bound, Trace_ELBO
from pyro_vae.priors import StandardNormal
from pyro_vae.training.trainer import Trainer
from pyro_vae.vae import VAE

X = np.tile(np.eye(6, dtype=np.float32), (5, 1))


def boom(*args, **kwargs):
    raise RuntimeError("boom\n  Trace Shapes: of Pyro")


def returns(value):
    return lambda *args, **kwargs: value


def variant(base, **members):
    """Return a subclass with other members, at the top level of this module, where `fit` finds it."""
    name = f"{base.__name__}With{''.join(members)}{len(globals())}"
    globals()[name] = kind = type(name, (base,), {**members, "__module__": __name__, "__qualname__": name})
    return kind


def build(shape=(6,), latent_dim=2, network=None, prior=StandardNormal, likelihood=Bernoulli, guide=Diagonal, **other):
    return VAE.build(shape, latent_dim, network or MLP([4]), prior, likelihood, guide, **other)


def fit(**options):
    return pyro_vae.fit(X, **{"network": ("mlp", {"hidden": [4]}), "latent_dim": 2, "max_epochs": 1, **options})


NORMAL, NAN = dist.Normal(torch.zeros(2), 1.0), torch.full((2,), math.nan)


@pytest.mark.parametrize(
    ("axis", "base", "members", "message"),
    [
        ("prior", LaplacePrior, {"forward": boom}, "forward failed with RuntimeError: boom$"),
        ("prior", LaplacePrior, {"__init__": boom}, "its construction failed with RuntimeError: boom$"),
        (
            "prior",
            LaplacePrior,
            {"forward": returns(None)},
            "forward returns None, but must return a Pyro distribution",
        ),
        ("prior", LaplacePrior, {"forward": returns(NORMAL)}, r"returns batch_shape \[2\].*: .to_event\(n\) turns"),
        (
            "prior",
            LaplacePrior,
            {"forward": returns(dist.Normal(torch.zeros(5), 1.0).to_event(1))},
            r"event_shape \[5\] for one",
        ),
        ("guide", FixedScale, {"forward": returns(torch.zeros(1, 2))}, "a value of type torch.Tensor, but must"),
        ("guide", FixedScale, {"forward": returns(NORMAL.to_event(1))}, r"must return batch_shape \[1\]"),
        ("guide", FixedScale, {"forward": lambda self, h: NORMAL}, "forward failed with TypeError"),
        ("likelihood", LaplaceLikelihood, {"at": boom}, "forward failed with RuntimeError: boom$"),
        (
            "likelihood",
            LaplaceLikelihood,
            {"at": returns(NORMAL)},
            r"must return batch_shape \[1\] and event_shape \[6\]",
        ),
        ("network", Linear, {"encoder": boom}, "encoder failed with RuntimeError: boom$"),
        ("network", Linear, {"encoder": returns(None)}, "encoder returns None, but must return a Module"),
        (
            "network",
            Linear,
            {"encoder": returns(nn.LSTM(6, 4))},
            "returns a value of type tuple, but must return a Tensor",
        ),
        ("network", Linear, {"encoder": returns(nn.Linear(99, 4))}, "encoder.* failed with RuntimeError: mat1"),
        ("network", Linear, {"decoder": returns(nn.Linear(2, 3))}, r"maps z \[2, 1, 2\] to \[2, 1, 3\], but must map"),
        ("network", Linear, {"init": "banana"}, "init=banana is unknown: choose one of torch, glorot"),
    ],
)
def test_families_that_do_not_keep_their_contract(axis, base, members, message):
    kind = variant(base, **members)
    with pytest.raises(BadInput, match=f"^{axis}={kind.__name__}: .*{message}") as caught:
        build(**{axis: kind() if axis == "network" else kind})
    assert "\n" not in str(caught.value)


def test_the_upper_networks():
    with pytest.raises(BadInput, match="upper failed with TypeError"):
        build(network=variant(Linear, upper=returns(3))(), latent_dim=[2, 2])


@pytest.mark.parametrize(
    ("axis", "base", "members", "message"),
    [
        ("prior", LaplacePrior, {"initialize_from": boom}, "initialize_from failed"),
        (
            "prior",
            LaplacePrior,
            {"forward": lambda *args: dist.Normal(NAN, 1.0).to_event(1)},
            "failed with",
        ),
        ("likelihood", LaplaceLikelihood, {"check": boom}, "the check of the data failed"),
        ("likelihood", LaplaceLikelihood, {"location_and_spread": returns(None)}, "location_and_spread failed"),
        ("likelihood", LaplaceLikelihood, {"marginals": returns(3)}, "marginals returns a value of type int"),
        ("objective", Trace_ELBO, {"check": boom}, "the check failed with RuntimeError: boom$"),
        ("objective", Trace_ELBO, {"bound": boom}, "bound or for_validation failed with RuntimeError: boom$"),
        ("objective", Trace_ELBO, {"bound": returns(None)}, r"bound returns None, but must return .*Bound\(loss"),
        ("objective", Trace_ELBO, {"bound": returns(Bound(1.0, 1.0, 1.0))}, "loss of its Bound has type float"),
        ("objective", Trace_ELBO, {"bound": returns(Bound(*torch.zeros(3, 2)))}, r"loss of its Bound has shape \[2\]"),
        ("objective", Trace_ELBO, {"bound": returns(Bound(*torch.zeros(3)))}, "has no gradient"),
        ("objective", Trace_ELBO, {"for_validation": returns(None)}, "must return an Objective"),
        ("objective", Trace_ELBO, {"at_step": returns([])}, "failed with TypeError: unhashable"),
    ],
)
def test_fit_refuses_what_shows_with_data(axis, base, members, message):
    kind = variant(base, **members)
    with pytest.raises(BadInput, match=f"^{axis}={kind.__name__}: .*{message}"):
        fit(**{axis: kind})


def test_a_likelihood_that_fails_on_data_from_disk(tmp_path):
    np.save(tmp_path / "x.npy", X)
    kind = variant(LaplaceLikelihood, check=boom)
    with pytest.raises(BadInput, match=f"^likelihood={kind.__name__}: the check of the data failed"):
        pyro_vae.fit(np.load(tmp_path / "x.npy", "r"), likelihood=kind, latent_dim=2, max_epochs=1)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"check": boom}, "the check failed with RuntimeError: boom$"),
        ({"fit": returns(None)}, r"fit never called on_epoch\(row, True\)"),
    ],
)
def test_training_algorithms(members, message):
    kind = variant(Trainer, **members)
    with pytest.raises(BadInput, match=f"^trainer={kind.__name__}: {message}"):
        fit(overrides=[f"trainer._target_={__name__}.{kind.__name__}"])


class NoTrainer:
    def __init__(self, **settings):
        pass


def test_a_training_algorithm_without_members():
    with pytest.raises(BadInput, match="^trainer=NoTrainer does not define device, .*algorithm.TrainingAlgorithm$"):
        fit(overrides=[f"trainer._target_={__name__}.NoTrainer"])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"estimate": boom}, "^estimator=.*: estimate failed with RuntimeError: boom$"),
        ({"estimate": returns(None)}, "^estimator=.*must return a LogEvidence, not a value of type NoneType"),
        (
            {"estimate": lambda self, m, g, x, y, p: Doubled.estimate(self, m, g, x[:1], y, p)},
            "1 values of log_px for 30",
        ),
        ({"__init__": lambda self: setattr(self, "num_samples", 0)}, "num_samples=0 must be an integer of at least 1"),
        ({"__init__": lambda self: setattr(self, "num_samples", True)}, "num_samples=True must be an integer"),
    ],
)
def test_estimators(small_vae, members, message):
    kind = variant(Doubled, **members)
    with pytest.raises(BadInput, match=message):
        small_vae.log_prob(X, estimator=kind())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": 6}, "data_shape=6 must be a list"),
        ({"shape": []}, r"data_shape=\[\] must have at least one dimension"),
        ({"shape": [0]}, "data_shape=0 must be an integer of at least 1"),
        ({"prior": None}, "prior=None is not a class: give one derived from pyro_vae.priors.Prior"),
        ({"guide": "diagonal"}, "guide=diagonal is not a class"),
        ({"guide": Diagonal(4, 2)}, r"guide=Diagonal\(.* is not a class"),
        ({"conditioning": "concat", "num_classes": 0}, "num_classes=0 must be an integer of at least 1"),
        ({"conditioning": "concat", "num_classes": "3"}, "num_classes='3' must be an integer"),
    ],
)
def test_arguments_of_build(arguments, message):
    with pytest.raises(BadInput, match=f"^{message}"):
        build(**arguments)


def test_errors_of_built_in_classes_are_not_hidden(small_vae, monkeypatch):
    monkeypatch.setattr(Diagonal, "forward", boom)
    with pytest.raises(RuntimeError, match="boom"):
        build()


def test_objectives_with_several_particles_may_be_instances():
    assert fit(objective=Trace_ELBO(2)).history
