"""Models given labels: through the prior's means, or into encoder and decoder."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from conftest import every

import pyro_vae
from pyro_vae.analysis import gaps
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal, FullCovariance, SemiAmortized
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.marginal import AIS, BDMC, Exact, Importance, Refined
from pyro_vae.networks import MLP, Conv
from pyro_vae.priors import ClassConditional, Mixture, StandardNormal, Vamp
from pyro_vae.vae import VAE


def build(conditioning="concat", prior=StandardNormal, guide=Diagonal, network=None, shape=(6,)):
    network = network or MLP([16])
    return VAE.build(shape, 2, network, prior, Bernoulli, guide, conditioning, num_classes=3).double()


CONDITIONAL = {
    "prior": partial(build, "prior", ClassConditional),
    "concat": build,
    "both": partial(build, "concat", ClassConditional),
    "full": partial(build, "concat", guide=FullCovariance),
    "conv": partial(build, "concat", network=Conv([3, 4], hidden=8), shape=(1, 5, 6)),
    "semi": partial(build, "concat", guide=SemiAmortized),
}


@pytest.mark.parametrize("name", every(2, CONDITIONAL))
def test_users_methods_and_estimators_take_labels(name):
    make = CONDITIONAL[name]
    vae = make()
    x, y = torch.rand(7, *vae.data_shape).double().round(), torch.arange(7) % 3
    assert vae.sample(4, y=2).shape == (4, *vae.data_shape)
    assert vae.sample(3, y=[0, 1, 2], mean=True).shape == (3, *vae.data_shape)
    assert vae.log_prob(x, num_samples=5, y=y, estimator="importance").shape == (7,)
    if vae.concat:
        z = torch.randn(7, 2).double()
        torch.testing.assert_close(vae.decode(z[0], y=1), vae.decode(z, y=1)[0])
        assert vae.reconstruct(x, y=y).shape == x.shape
        assert not torch.equal(vae.encode(x, y=0), vae.encode(x, y=1))
    for estimator in (Importance(5), Refined(5), AIS(2, 3, start="guide"), BDMC(2, 3, start="guide")):
        assert estimator(vae.model, vae.guide, x, y).log_px.isfinite().all()


@pytest.mark.parametrize(
    "make",
    [*list(CONDITIONAL.values())[:-1], pytest.param(CONDITIONAL["semi"], marks=pytest.mark.slow)],
    ids=CONDITIONAL,
)
def test_log_px_depends_on_the_datapoints_own_label(make):
    """Estimates of a batch of labels are those of its single labels."""
    vae = make()
    x = torch.rand(1, *vae.data_shape).double().round().expand(3, *vae.data_shape)
    together = Refined(400)(vae.model, vae.guide, x, torch.arange(3))
    for y in range(3):
        alone = Refined(400)(vae.model, vae.guide, x[:1], torch.tensor([y]))
        error = 4.5 * (together.se[y] ** 2 + alone.se[0] ** 2).sqrt()
        assert (together.log_px[y] - alone.log_px[0]).abs() < error + 1e-9
    assert together.log_px.std() > 1e-3


def test_a_linear_conditional_model_has_the_exact_evidence():
    """x = W (μ_y + ε) + b + σ η: log p(x | y) = log N(x; W μ_y + b, W Wᵀ + σ² I)."""
    likelihood = partial(Gaussian, scale="fixed", init_scale=0.5)
    vae = VAE.build([4], 2, MLP([]), ClassConditional, likelihood, FullCovariance, "prior", 3).double()
    W, b = vae.decoder[0].weight.detach(), vae.decoder[0].bias.detach()
    x, y = torch.randn(9, 4).double(), torch.arange(9) % 3
    p_x = torch.distributions.MultivariateNormal(
        vae.prior.loc.detach()[y] @ W.T + b, W @ W.T + 0.25 * torch.eye(4).double()
    )
    torch.testing.assert_close(Exact()(vae.model, vae.guide, x, y).log_px, p_x.log_prob(x))
    draws = vae.sample(20_000, y=1)
    mean = vae.prior.loc.detach()[1] @ W.T + b
    assert ((draws.mean(0) - mean).abs() < 4.5 * (p_x.variance[0] / 20_000).sqrt()).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda vae, x: vae.sample(3), "conditional: give y, labels from 0 to 2, one or 3 of them"),
        (lambda vae, x: vae.sample(3, y=np.uint16([0, 1, 3])), r"y=\[0 1 3\] must be labels from 0 to 2"),
        (lambda vae, x: vae.sample(3, y=3), "y=3 must be labels from 0 to 2"),
        (lambda vae, x: vae.sample(3, y=-1), "y=-1 must be labels from 0 to 2"),
        (lambda vae, x: vae.sample(3, y=[0, 1]), r"y=\[0, 1\] must be labels"),
        (lambda vae, x: vae.sample(3, y=0.5), "y=0.5 must be labels"),
        (lambda vae, x: vae.sample(3, y="two"), "y holds two, but the classes have no names"),
        (lambda vae, x: vae.sample(3, y=[0, 1, "2"]), r"y=\[0, 1, '2'\] must be labels"),
        (lambda vae, x: vae.sample(3, y=[[0], [1, 2]]), r"y=.* must be labels"),
        (lambda vae, x: vae.encode(x), "conditional: give y"),
        (lambda vae, x: vae.log_prob(x), "conditional: give y"),
        (lambda vae, x: vae.decode(np.zeros((2, 2))), "conditional: give y"),
    ],
)
def test_labels_that_are_missing_or_none_of_the_classes(call, message):
    with pytest.raises(BadInput, match=message):
        call(build(), torch.zeros(2, 6).double())


def test_labels_in_any_array_of_whole_numbers():
    vae, x = build(), torch.rand(3, 6).double().round()
    expected = vae.encode(x, y=[2, 1, 0])
    for y in (np.arange(3)[::-1], np.array([2, 1, 0], ">i8"), np.uint16([2, 1, 0]), torch.tensor([2, 1, 0])):
        assert torch.equal(vae.encode(x, y=y), expected)


def test_labels_where_there_are_none(small_vae):
    for call in (lambda: small_vae.sample(2, y=0), lambda: small_vae.encode(torch.zeros(1, 6), y=0)):
        with pytest.raises(BadInput, match="does not depend on labels"):
            call()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"conditioning": "prior"}, "conditioning=prior needs a prior that depends on y"),
        ({"conditioning": "banana"}, "conditioning=banana is unknown: choose one of none, prior, concat"),
        ({"conditioning": "concat", "num_classes": None}, "conditioning=concat needs labels"),
        ({"prior": ClassConditional, "num_classes": None}, "prior=class_conditional needs labels"),
        ({"conditioning": "concat", "num_classes": 10_000_001}, "labels up to 10000000 would be 10000001 classes"),
        ({"conditioning": "concat", "prior": Vamp}, "prior=vamp needs a guide of x alone"),
        ({"prior": Vamp, "guide": SemiAmortized}, "prior=vamp needs a guide of x alone"),
    ],
)
def test_combinations_that_make_no_sense(settings, message):
    settings = {"prior": StandardNormal, "guide": Diagonal, "conditioning": "none", "num_classes": 3} | settings
    with pytest.raises(BadInput, match=message):
        VAE.build([6], 2, MLP([16]), likelihood=Bernoulli, **settings)


@pytest.mark.parametrize("conditioning", ["prior", pytest.param("concat", marks=pytest.mark.slow)])
def test_the_commands_and_fit_take_labels(command, tmp_path, conditioning):
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=200)
    prototypes = rng.random((3, 12)) < 0.5
    x = (prototypes[y] ^ (rng.random((200, 12)) < 0.05)).astype(np.float32)
    np.savez("labelled.npz", x=x, y=y)
    data = ["data=array", "data.path=labelled.npz", "data.key=x"]
    short = ["network.hidden=[16]", "latent_dim=2", "trainer.max_epochs=2", "estimator=importance"]
    outcome = command("train", *data, *short, f"conditioning={conditioning}", "hydra.run.dir=run")
    assert outcome.code == 2
    assert "needs labels" in outcome.err
    labelled = [*data, "data.label_key=y", *short, f"conditioning={conditioning}"]
    outcome = command("train", *labelled, "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    test = json.loads((tmp_path / "run" / "results.json").read_text())["test"]
    assert test["log_px"] < 0
    assert test["given"] == "y"
    assert "log p(x | y), estimate" in outcome.out
    assert command("evaluate", "run=run", "estimator=importance", "analysis=all", "num_data=9", "num_steps=2").code == 0
    assert pyro_vae.load("run").sample(3, y=2).shape == (3, 12)
    vae = pyro_vae.fit(
        x,
        y=y,
        latent_dim=2,
        max_epochs=40,
        lr=1e-2,
        overrides=["network.hidden=[16]", f"conditioning={conditioning}"],
    )
    # the class is chosen: samples are nearest to their own class's prototype
    for label in range(3):
        drawn = vae.sample(200, y=label).numpy()
        nearest = np.abs(drawn[:, None] - prototypes).sum(-1).argmin(1)
        assert (nearest == label).mean() > 0.9


def test_classes_without_data_are_told_of(caplog):
    x, y = np.random.default_rng(0).random((60, 4)).astype(np.float32), np.arange(60) % 3
    settings = {"likelihood": "gaussian", "latent_dim": 2, "max_epochs": 1}
    for labels, told in [(y, ""), (y + 2, "2 of the 5 classes")]:
        caplog.clear()
        pyro_vae.fit(x, labels, **settings, conditioning="concat", overrides=["network.hidden=[8]"])
        assert ("the first of them class 0, have no training data" in caplog.text) == bool(told)
        assert told in caplog.text


def test_priors_that_know_no_label_train_as_before(command, tmp_path):
    outcome = command("train", "conditioning=prior", "prior=mixture", "data=digits", "hydra.run.dir=run")
    assert outcome.code == 2
    assert "prior=class_conditional" in outcome.err
    assert Mixture(2)(torch.tensor([0]), None).batch_shape == ()


@pytest.mark.parametrize("y", [[True, False, True], np.array([1.0, 0.0, 1.0]), np.array([1, 0, 1], np.uint8)])
def test_labels_are_what_they_are_to_data_sets(y):
    vae = VAE.build([4], 2, MLP([8]), StandardNormal, Gaussian, Diagonal, conditioning="concat", num_classes=2)
    x = torch.rand(3, 4)
    assert torch.equal(vae.encode(x, y=y), vae.encode(x, y=torch.tensor([1, 0, 1])))


@pytest.mark.parametrize("use", ["refined", "ais", "gaps", "log_prob"])
def test_data_and_labels_may_be_made_in_inference_mode(use):
    """As a data loader within `torch.inference_mode()` makes them: gradients take neither."""
    vae = build("concat", ClassConditional)
    x, y = torch.rand(5, 6).double().round(), torch.arange(5) % 3
    with torch.inference_mode():
        x_made, y_made = x.clone(), y.clone()
    run = {
        "refined": lambda x, y: Refined(5)(vae.model, vae.guide, x, y).log_px,
        "ais": lambda x, y: AIS(2, 3, start="guide")(vae.model, vae.guide, x, y).log_px,
        "gaps": lambda x, y: gaps(vae.model, vae.guide, x, Importance(5), y, num_steps=2, num_samples=2)["elbo_best"],
        "log_prob": lambda x, y: vae.log_prob(x, num_samples=5, y=y, estimator="importance"),
    }[use]
    torch.manual_seed(0)
    expected = run(x, y)
    for mode in (torch.enable_grad(), torch.inference_mode()):
        torch.manual_seed(0)
        with mode:
            found = run(x_made, y_made)
        torch.testing.assert_close(found.clone(), expected)
