"""Models of classes of which few are known, against sums over the classes and closed forms."""

import json
from functools import partial

import numpy as np
import pyro
import pytest
import torch
from conftest import assert_same, one_error_line, outcome
from pyro.infer import TraceEnum_ELBO
from torch.distributions import MultivariateNormal

import pyro_vae
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.compilation.gradients import with_gradients
from pyro_vae.data import from_array
from pyro_vae.data.labels import keep_labels
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal, Enumerated, FullCovariance
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.marginal import Auto, Importance
from pyro_vae.networks import MLP, Conv
from pyro_vae.objectives import SemiSupervised
from pyro_vae.priors import Categorical, ClassConditional, StandardNormal
from pyro_vae.runs import classification
from pyro_vae.training.svi import reported_loss
from pyro_vae.vae import VAE, SemiSupervisedVAE

Y = torch.tensor([0, -1, 2, -1, -1, 1, -1])


def build(guide=Diagonal, network=None, shape=(6,), missing=False):
    network = network or MLP([16])
    families = (network, StandardNormal, Bernoulli, guide)
    return SemiSupervisedVAE.build(shape, 2, *families, num_classes=3, missing=missing).double()


def gradients(elbo, vae, x, y):
    """Loss and gradient, with the same noise."""
    pyro.clear_param_store()
    torch.manual_seed(1)
    loss = elbo.differentiable_loss(vae.model, vae.guide, x, y)
    return loss.detach(), torch.autograd.grad(loss, list(vae.parameters()))


@pytest.fixture
def x():
    return torch.rand(7, 6).double().round()


@pytest.mark.parametrize("y", [Y, None, Y.clamp(min=0)], ids=["holes", "none", "all"])
def test_the_bound_is_that_of_pyros_enumeration(x, y):
    vae = build()
    expected, found = (gradients(elbo, vae, x, y) for elbo in (TraceEnum_ELBO(max_plate_nesting=1), SemiSupervised(0)))
    torch.testing.assert_close(found, expected)


def exact(N=6):
    """x = w z + V_y + b + σ ε with its exact guide, and log p(x, y) `[N, C]`."""
    likelihood = partial(Gaussian, scale="fixed", init_scale=0.5)
    vae = SemiSupervisedVAE.build([4], 1, MLP([]), StandardNormal, likelihood, Diagonal, num_classes=3).double()
    x = torch.randn(N, 4).double()
    vae.log_p_y.copy_(torch.tensor([0.5, 0.2, 0.3]).log())
    head = vae.decoder.head[0]
    w, means = head.weight[:, 0].detach(), (head.weight[:, 1:].T + head.bias).detach()
    S = torch.outer(w, w) + 0.25 * torch.eye(4).double()
    precision = w @ w + 0.25
    q, logits = vae.posterior.loc_log_scale, vae.classifier[-1]
    with torch.no_grad():
        q.weight.zero_()
        q.weight[0] = torch.cat([w, -means @ w]) / precision  # the features are x and y, one-hot
        q.bias.copy_(torch.stack([torch.zeros(()).double(), 0.5 * (0.25 / precision).log()]))
        logits.weight.copy_(means @ S.inverse())
        logits.bias.copy_(vae.log_p_y - 0.5 * (means @ S.inverse() * means).sum(-1))
    return vae, x, vae.log_p_y + MultivariateNormal(means, S).log_prob(x.unsqueeze(1))


def test_with_an_exact_guide_the_bound_is_log_p_of_x_and_of_the_known_labels():
    vae, x, log_p = exact()
    y = torch.tensor([0, -1, 2, -1, 1, -1])
    each = torch.where(y >= 0, log_p.gather(1, y.clamp(min=0)[:, None]).squeeze(1), log_p.logsumexp(1))
    bound = SemiSupervised(alpha=0.0, num_particles=2).bound(vae.model, vae.guide, x, y)
    torch.testing.assert_close(-bound.loss, each.sum())
    torch.testing.assert_close(bound.elbo, each.sum())
    torch.testing.assert_close(vae.predict_class(x), log_p.softmax(1).detach())


@pytest.mark.parametrize("estimator", [Importance(3), Auto()], ids=lambda each: each.name)
def test_estimators_sum_over_the_class_or_take_it_as_given(estimator):
    vae, x, log_p = exact(2)
    found = vae.evidence(x, estimator=estimator)
    tolerance = 4.5 * found.se.nan_to_num() + (0.01 if estimator.name == "auto" else 1e-6)
    assert ((found.log_px - log_p.logsumexp(1)).abs() < tolerance).all()
    given = vae.evidence(x, y=[2, 0], estimator=estimator)
    expected = (log_p - vae.log_p_y)[range(2), [2, 0]]
    assert ((given.log_px - expected).abs() < 4.5 * given.se.nan_to_num() + 0.01).all()


def test_importance_sampling_may_draw_the_class():
    vae, x, log_p = exact()
    found = Importance(5)(vae.model, vae.guide, x).log_px  # q(y, z | x) is exact, so that all weights are equal
    torch.testing.assert_close(found, log_p.logsumexp(1).detach())


def test_the_classifier_learns_from_labels_by_alpha_alone(x):
    vae, labels = build(), Y.clamp(min=0)
    classifier = [name.startswith("classifier") for name, _ in vae.named_parameters()]
    (_, without), (_, hidden) = (gradients(SemiSupervised(0), vae, x, y) for y in (labels, Y))
    assert all(not g.any() for g, own in zip(without, classifier, strict=True) if own)
    assert any(g.any() for g, own in zip(hidden, classifier, strict=True) if own)
    for y in (labels, Y, torch.full_like(Y, -1)):
        (plain, _), (weighted, gradient) = (gradients(SemiSupervised(alpha), vae, x, y) for alpha in (0, 2))
        known = y >= 0
        log_q = vae.q_y(x).log_prob(y.clamp(min=0))[known]
        expected = 2 * len(x) * log_q.mean() if known.any() else torch.zeros(()).double()
        torch.testing.assert_close(plain - weighted, expected.detach())
        assert all(g.isfinite().all() for g in gradient)


def test_a_rows_bound_depends_on_its_own_label_alone(x):
    vae = build()
    rows = [
        [SemiSupervised(0, num_particles=4000).loss(vae.model, vae.guide, x[[i]], y[[i]]) for i in (0, 1)]
        for y in (Y, torch.tensor([1, -1]))
    ]
    assert abs(rows[0][0] - rows[1][0]) > 0.05  # labels 0 and 1
    assert abs(rows[0][1] - rows[1][1]) < 0.05  # not labelled


def test_sampling_the_programs_keeps_known_labels(x):
    vae = build()
    draws = pyro.poutine.trace(vae.model).get_trace(x.repeat(50, 1), Y.repeat(50))
    drawn = draws.nodes["y"]["value"].reshape(50, 7)
    assert (drawn[:, Y >= 0] == Y[Y >= 0]).all()
    assert all(len(drawn[:, i].unique()) == 3 for i in (1, 3, 4, 6))
    draws.compute_log_prob()
    known = draws.nodes["label"]["log_prob"].reshape(50, 7)
    torch.testing.assert_close(known, torch.where(Y >= 0, -np.log(3), 0.0).double().expand(50, 7))


@pytest.mark.parametrize(
    ("guide", "network", "shape"),
    [(Diagonal, None, (6,)), (FullCovariance, Conv([3, 4], hidden=8), (1, 5, 6))],
    ids=["mlp", "conv"],
)
def test_users_methods(guide, network, shape):
    vae = build(guide, network, shape)
    x = torch.rand(7, *shape).double().round()
    probabilities = vae.predict_class(x)
    assert probabilities.shape == (7, 3)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(7).double())
    labels = probabilities.argmax(1)
    for method in (vae.encode, vae.reconstruct):
        assert torch.equal(method(x), method(x, y=labels))
    torch.testing.assert_close(vae(x), vae.reconstruct(x))
    assert vae.sample(4).shape == vae.sample(4, y=1).shape == (4, *shape)
    assert vae.sample(3, y=[0, 1, 2], mean=True).shape == (3, *shape)
    assert vae.log_prob(x, num_samples=500, estimator="importance").isfinite().all()
    assert vae.impute(x, torch.ones(shape, dtype=torch.bool), y=0, num_samples=2).shape == (2, 7, *shape)
    with pytest.raises(BadInput, match="conditional: give y, labels from 0 to 2"):
        vae.decode(torch.zeros(2, 2))
    with pytest.raises(BadInput, match="y=-1 must be labels from 0 to 2"):
        vae.encode(x, y=-1)


def test_missing_entries():
    vae = build(missing=True)
    x = torch.rand(7, 6).double().round()
    vae.initialize(x, Y)
    x[0, 3] = x[2, 1] = torch.nan
    expected, found = (gradients(elbo, vae, x, Y) for elbo in (TraceEnum_ELBO(max_plate_nesting=1), SemiSupervised(0)))
    torch.testing.assert_close(found, expected)
    torch.manual_seed(0)
    summed = vae.log_prob(x, 4000, estimator="importance")
    drawn = Importance(4000)(vae.model, vae.guide, x)
    assert ((summed - drawn.log_px).abs() < 5 * drawn.se + 0.02).all()


@pytest.mark.filterwarnings("ignore:chains moved", "ignore:the weights of")
@pytest.mark.parametrize(("method", "num_steps"), [("gibbs", 30), ("importance", 2000)])
def test_without_labels_imputation_draws_the_class_given_the_observed_values(method, num_steps):
    vae, x, _ = exact(2)
    with torch.no_grad():
        vae.decoder.head[0].weight[:, 1:] = 3 * torch.eye(4).double()[:, :3]
        vae.classifier[-1].weight.fill_(0.1)  # a guide that is not exact
    observed = torch.tensor([True, True, False, True])
    x[0, 0], x[1, 1] = 4.0, 4.0
    w, b = vae.decoder.head[0].weight[:, 0].detach(), vae.decoder.head[0].bias.detach()
    means = b + 3 * torch.eye(4).double()[:3]
    S = torch.outer(w, w) + 0.25 * torch.eye(4).double()
    o = observed
    log_p = vae.log_p_y + MultivariateNormal(means[:, o], S[o][:, o]).log_prob(x[:, None, o])
    given = means[:, 2] + (x[:, None, o] - means[:, o]) @ S[o][:, o].inverse() @ S[o, 2]
    expected = (log_p.softmax(1) * given).sum(1)
    torch.manual_seed(0)
    draws = vae.impute(x, o, num_samples=200, num_steps=num_steps, method=method)[..., 2]
    se = (S[2, 2] + (log_p.softmax(1) * (given - expected[:, None]) ** 2).sum(1)).sqrt() / 200**0.5
    assert ((draws.mean(0) - expected).abs() < 4.5 * se).all()
    assert vae.impute(x, o, num_samples=1, num_steps=2).shape == (1, 2, 4)  # the default is gibbs


@pytest.mark.usefixtures("as_traced")
def test_the_bound_compiles(x):
    vae = build()
    compiled = Compiled(with_gradients(reported_loss(SemiSupervised())))
    results = []
    for _ in range(3):
        torch.manual_seed(1)
        results.append(compiled(vae.model, vae.guide, x, Y, None))
    assert all(graph is not None and graph.has_run for graph in compiled._graphs.values())
    torch.testing.assert_close(results[2][0][0], results[0][0][0])
    torch.testing.assert_close(results[2][2], results[0][2])


def labelled(n, seed=0):
    """Noisy copies of 3 prototypes, and their classes."""
    rng = np.random.default_rng(seed)
    prototypes = np.random.default_rng(0).random((3, 20)) < 0.5
    y = rng.integers(3, size=n)
    return (prototypes[y] ^ (rng.random((n, 20)) < 0.2)).astype(np.float32), y


SHORT = [
    "network.hidden=[16]", "latent_dim=2", "data=array", "data.path=x.npz", "data.key=x", "data.label_key=y",
    "estimator=importance", "estimator.num_samples=20", "second_estimator=false", "conditioning=semi_supervised",
]  # fmt: skip


def test_few_labels_suffice_where_a_classifier_needs_more(command, tmp_path, monkeypatch):
    monkeypatch.setattr(classification, "STEPS", 200)
    x, y = labelled(600)
    np.savez("x.npz", x=x, y=y)
    options = [*SHORT, "data.num_labels=3", "optimizer.lr=1e-2", "trainer.max_epochs=30", "data.test_fraction=0.4"]
    options += ["latent_dim=1", "plots=false"]
    done = command("train", *options, "hydra.run.dir=run")
    assert done.code == 0, done.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    found = results["classification"]
    assert found["num_labels"] == 3
    assert found["num_data"] == 240
    assert found["accuracy"] > 0.85
    assert found["accuracy"] > found["accuracy_supervised"] + 0.08
    assert "trained on the 3 labelled datapoints alone" in done.out
    assert "given" not in results["test"] or results["test"]["given"] is None
    vae = pyro_vae.load("run")
    other, labels = labelled(300, seed=1)
    assert (vae.predict_class(other).argmax(1).numpy() == labels).mean() > 0.85


def test_resuming_changes_nothing(command, tmp_path, monkeypatch):
    monkeypatch.setattr(classification, "STEPS", 2)
    x, y = labelled(120)
    y[::2] = -1  # labels may also be missing in the file
    np.savez("x.npz", x=x, y=y)
    options = [*SHORT, "plots=false"]
    assert command("train", *options, "trainer.max_epochs=3", "hydra.run.dir=whole").code == 0
    assert command("train", *options, "trainer.max_epochs=2", "hydra.run.dir=parts").code == 0
    done = command("train", "resume=parts", "trainer.max_epochs=3")
    assert done.code == 0, done.err
    (rows, files), (expected_rows, expected) = outcome(tmp_path / "parts"), outcome(tmp_path / "whole")
    assert rows == expected_rows
    assert_same([files[name]["vae"] for name in files], [expected[name]["vae"] for name in expected])
    assert (
        command("evaluate", "run=parts", "estimator=importance", "estimator.num_samples=20", "analysis=all").code == 0
    )


@pytest.mark.parametrize("hole", [-1, np.nan])
def test_fit_takes_labels_with_holes(hole):
    x, y = labelled(200)
    y = np.where(np.arange(200) % 10 > 0, hole, y)
    settings = {"latent_dim": 2, "max_epochs": 1, "verbose": False, "overrides": ["network.hidden=[8]"]}
    vae = pyro_vae.fit(x, y, conditioning="semi_supervised", **settings)
    assert vae.predict_class(x[:5]).shape == (5, 3)
    counts = torch.bincount(torch.tensor(y[::10]).long(), minlength=3)
    assert vae.log_p_y.exp().sum().item() == pytest.approx(1)
    assert vae.log_p_y.argmax() == counts.argmax()
    with pytest.raises(BadInput, match="labels are missing .*, which only conditioning=semi_supervised allows"):
        pyro_vae.fit(x, y, conditioning="concat", **settings)
    with pytest.raises(BadInput, match="y: all labels are missing"):
        pyro_vae.fit(x, y * 0 - 1, conditioning="semi_supervised", **settings)
    with pytest.raises(BadInput, match="needs a few training datapoints with labels"):
        build().initialize(torch.rand(3, 6).double(), torch.tensor([-1, -1, -1]))


def test_labels_to_keep():
    y = torch.arange(50) % 4
    kept = keep_labels(y, 10, seed=0)
    assert torch.bincount(kept[kept >= 0]).tolist() == [3, 3, 2, 2]
    assert torch.equal(kept[kept >= 0], y[kept >= 0])
    assert torch.equal(kept, keep_labels(y, 10, seed=0))
    assert not torch.equal(kept, keep_labels(y, 10, seed=1))
    data = from_array(torch.rand(100, 3), y=torch.arange(100) % 4, num_labels=8)
    assert [(split.y >= 0).sum().item() for split in (data.train, data.val, data.test)] == [8, 0, 10]
    assert data.num_classes == 4


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_labels": 3}, "num_labels=3 leaves some of 4 classes without a label"),
        ({"num_labels": 0}, "num_labels=0"),
        ({"num_labels": 90}, "num_labels=90 needs 23 labels of class 0, of which 20 exist"),
        ({"num_labels": 5, "y": None}, "num_labels=5 needs labels, which these data do not have"),
        ({"y": torch.arange(100) - 2}, "y must hold labels 0, 1, 2, …, and -1 or NaN where they are missing"),
        ({"y": np.linspace(0, 1, 100)}, "y must hold labels 0, 1, 2, …, and -1 or NaN where they are missing"),
    ],
)
def test_labels_that_cannot_be_kept(settings, message):
    with pytest.raises(BadInput, match=message):
        from_array(torch.rand(100, 3), **{"y": torch.arange(100) % 4, **settings})


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (VAE, {}, r"use SemiSupervisedVAE.build\(...\)"),
        (SemiSupervisedVAE, {"num_classes": None}, "conditioning=semi_supervised needs labels"),
        (SemiSupervisedVAE, {"latent_dim": [3, 2]}, "has one stochastic layer: set latent_dim to a single number"),
        (SemiSupervisedVAE, {"prior": ClassConditional}, "needs a prior that does not depend on y"),
        (
            SemiSupervisedVAE,
            {"prior": Categorical, "guide": Enumerated},
            "needs a guide that does not evaluate the model",
        ),
    ],
)
def test_combinations_that_are_refused(kind, settings, message):
    settings = {"latent_dim": 2, "prior": StandardNormal, "guide": Diagonal, "num_classes": 3} | settings
    with pytest.raises(BadInput, match=message):
        kind.build([6], network=MLP([8]), likelihood=Bernoulli, conditioning="semi_supervised", **settings)


def test_objectives_that_are_refused(command):
    x, y = labelled(40)
    np.savez("x.npz", x=x, y=y)
    refused = command("train", *SHORT[:-1], "objective=semi_supervised")
    one_error_line(refused, "needs a model of classes; this works, with another objective")
    refused = command("train", *SHORT, "objective=iwae")
    one_error_line(refused, "objective=iwae needs a reparameterized guide", "this works", "objective=semi_supervised")


def test_classes_start_at_their_shares_among_the_labels():
    vae = SemiSupervisedVAE.build([6], 2, MLP([4]), StandardNormal, Bernoulli, Diagonal, num_classes=3)
    vae.initialize(torch.rand(6, 6).round(), torch.tensor([0, 0, 0, 1, -1, -1]))
    torch.testing.assert_close(vae.log_p_y.exp(), torch.tensor([4.0, 2.0, 1.0]) / 7)
