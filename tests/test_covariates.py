"""Models given covariates: several columns, continuous and categorical, through the prior or into both networks."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch

import pyro_vae
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.data import from_array, from_frame
from pyro_vae.data.covariates import describe, values_for
from pyro_vae.data.schema import Column
from pyro_vae.errors import BadInput
from pyro_vae.guides import Diagonal, FullCovariance
from pyro_vae.likelihoods import Bernoulli, Gaussian
from pyro_vae.marginal import Exact
from pyro_vae.networks import MLP
from pyro_vae.priors import ClassConditional, StandardNormal
from pyro_vae.programs.log_weights import log_weights
from pyro_vae.vae import VAE, SemiSupervisedVAE

AGE, SEX = Column("age", "real"), Column("sex", "categorical", "text", ("f", "m"))
TINY = {"latent_dim": 2, "network": ("mlp", {"hidden": [8]}), "max_epochs": 2, "verbose": False}


def build(conditioning="concat", covariates=(AGE, SEX), likelihood=Bernoulli, guide=Diagonal, hidden=(8,), **y):
    torch.manual_seed(0)
    prior = ClassConditional if conditioning == "prior" else StandardNormal
    y = y or {"covariates": covariates}
    return VAE.build([4], 2, MLP(hidden), prior, likelihood, guide, conditioning=conditioning, **y).double()


def table(n=80, seed=0):
    rng = np.random.default_rng(seed)
    sex, age = rng.choice(["f", "m"], n), rng.normal(40.0, 10.0, n)
    a = 0.2 * age + 3.0 * (sex == "m") + rng.normal(size=n)
    return pd.DataFrame({"a": a, "age": age, "b": rng.normal(size=n) - a, "sex": sex})


# Against truth ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditioning", ["prior", "concat"])
def test_a_linear_model_has_the_exact_log_px_given_covariates(conditioning):
    """x = W (A e(y) + ε) + V e(y) + b + σ η: log p(x | y) = log N(x; W A e(y) + V e(y) + b, W Wᵀ + σ² I)."""
    vae = build(
        conditioning, likelihood=partial(Gaussian, scale="fixed", init_scale=0.5), guide=FullCovariance, hidden=()
    )
    y = torch.stack([torch.linspace(20, 70, 9), torch.arange(9) % 2], 1).double()
    x = torch.randn(9, 4).double()
    vae.context.initialize_from(y)
    (linear,) = (module for module in vae.decoder.modules() if isinstance(module, torch.nn.Linear))
    W, V = linear.weight.detach()[:, :2], linear.weight.detach()[:, 2:]
    encoded = torch.cat([(y[:, :1] - y[:, :1].mean()) / y[:, :1].std(correction=0), 1 - y[:, 1:], y[:, 1:]], 1)
    if conditioning == "prior":
        vae.prior.loc.data.normal_()
        V = W @ vae.prior.loc.detach().T
    mean = encoded @ V.T + linear.bias.detach()
    p_x = torch.distributions.MultivariateNormal(mean, W @ W.T + 0.25 * torch.eye(4).double())
    torch.testing.assert_close(Exact()(vae.model, vae.guide, x, y).log_px, p_x.log_prob(x), check_dtype=False)
    people = pd.DataFrame({"sex": np.array(["f", "m"])[y[:, 1].long()], "age": y[:, 0]})
    torch.testing.assert_close(vae.log_prob(x, y=people, estimator="exact"), p_x.log_prob(x), rtol=1e-5, atol=1e-5)
    draws = vae.sample(20_000, y={"age": 20.0, "sex": "f"})
    assert ((draws.mean(0) - mean[0]).abs() < 4.5 * (p_x.variance[0] / 20_000).sqrt()).all()


@pytest.mark.parametrize("conditioning", ["prior", "concat"])
def test_one_column_of_categories_is_the_model_of_class_labels(conditioning):
    """The same parameters, ELBO and gradients bit for bit."""
    found = []
    labels = torch.arange(5) % 3
    kind = Column("kind", "categorical", "text", ("a", "b", "c"))
    for settings, y in (({"num_classes": 3}, labels), ({"covariates": [kind]}, labels.unsqueeze(1).double())):
        vae = build(conditioning, **settings)
        x = torch.rand(5, 4).double().round()
        vae.initialize(x, y)
        torch.manual_seed(1)
        z = vae.q_z(x, y).rsample()
        elbo = vae.log_joint(x, y, z) - vae.q_z(x, y).log_prob(z)
        elbo.sum().backward()
        found.append([elbo, *vae.parameters(), *(parameter.grad for parameter in vae.parameters())])
    assert len(found[0]) == len(found[1])
    assert all(map(torch.equal, *found))


def test_standardization_is_that_of_the_training_data():
    vae = build()
    y = torch.tensor([[20.0, 0.0], [40.0, 1.0], [60.0, 1.0]]).double()
    vae.initialize(torch.rand(3, 4).double(), y)
    encoded = vae.context(y, torch.float64)
    assert torch.equal(encoded[:, 1:], torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]).double())
    torch.testing.assert_close(encoded[:, 0], (y[:, 0] - 40) / y[:, 0].std(correction=0))


def test_a_constant_share_of_the_data_is_not_divided_by_zero():
    vae = build(covariates=[AGE])
    vae.initialize(torch.rand(3, 4).double(), torch.full([3, 1], 7.0).double())
    assert vae.context(torch.tensor([[8.0]]).double(), torch.float64).item() == 1.0


@pytest.mark.parametrize("conditioning", ["prior", "concat"])
def test_a_compiled_loss_and_exported_modules_are_given_covariates(conditioning):
    vae = build(conditioning)
    x, y = torch.rand(6, 4).double().round(), torch.stack([torch.linspace(20, 70, 6), torch.arange(6) % 2], 1).double()
    vae.initialize(x, y)
    found = []
    for run in (log_weights, Compiled(log_weights, "eager")):
        for rows in (y, y.flip(0)):  # the graph is not of the first y
            torch.manual_seed(0)
            found.append(run(vae.model, vae.guide, x, rows, num_samples=3))
    assert not torch.equal(found[0], found[1])
    torch.testing.assert_close(found[2:], found[:2])
    if conditioning == "concat":
        rows = ({0: torch.export.Dim("N")},) * 2
        encode = torch.export.export(vae.encoder_module(), (x, y), dynamic_shapes=rows).module()
        torch.testing.assert_close(encode(x[:3], y[:3])[0], vae.encode(x[:3], y=y[:3]))


# In Python --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("conditioning", ["prior", pytest.param("concat", marks=pytest.mark.slow)])
def test_fit_learns_what_covariates_tell(conditioning, tmp_path):
    rng = np.random.default_rng(0)
    y = rng.normal([3.0, -100.0], [1.0, 20.0], (400, 2))
    x = np.stack([y[:, 0], -y[:, 0], y[:, 1] / 20], 1) + 0.1 * rng.normal(size=(400, 3))
    options = TINY | {"max_epochs": 20, "lr": 2e-2, "network": ("mlp", {"hidden": [16]}), "likelihood": "gaussian"}
    vae = pyro_vae.fit(x, y, conditioning=conditioning, **options)
    low, high = vae.sample(300, y=[2.0, -100.0]).mean(0), vae.sample(300, y=[4.0, -100.0]).mean(0)
    assert high[0] - low[0] > 1.0
    assert high[1] - low[1] < -1.0
    vae.save(tmp_path / "run")
    again = pyro_vae.load(tmp_path / "run")
    assert torch.equal(again.context.encoding.scale, vae.context.encoding.scale)
    assert again.context.names == ["y[:, 0]", "y[:, 1]"]
    expected = vae.encode(x[:5], y=y[:5])
    assert torch.equal(again.encode(x[:5], y=y[:5]), expected)


def test_fit_takes_covariates_by_name_from_a_data_frame(tmp_path):
    frame = table()
    vae = pyro_vae.fit(frame, y=["age", "sex"], conditioning="concat", run_dir=tmp_path / "run", **TINY)
    assert vae.data_shape == (2,)
    again = pyro_vae.load(tmp_path / "run")
    rows = frame[:6]
    of_x, of_y = rows[["a", "b"]], rows[["sex", "age"]]
    values = np.stack([rows["age"], rows["sex"] == "m"], 1)
    expected = vae.encode(of_x, y=of_y)
    for x, y in [
        (rows, None),
        (rows, ["age", "sex"]),
        (rows, ["sex", "age"]),
        (of_x, values),
        (of_x, {"sex": rows["sex"], "age": rows["age"].to_numpy()}),
        (of_x, [list(row) for row in zip(rows["age"], rows["sex"], strict=True)]),
        (torch.tensor(of_x.to_numpy()), torch.tensor(values.astype(float))),
    ]:
        torch.testing.assert_close(again.encode(x, y=y), expected)
    assert vae.sample(3, y=[40.0, "m"], as_frame="pandas").columns.tolist() == ["a", "b"]
    holes = rows.copy()
    holes.loc[0, "b"] = np.nan
    (filled,) = vae.impute(holes, num_samples=1, num_steps=4, method="gibbs")
    assert filled.columns.tolist() == rows.columns.tolist()
    assert filled["sex"].tolist() == rows["sex"].tolist()
    assert np.isfinite(filled["b"]).all()
    assert vae.reconstruct(rows).shape == (6, 2)
    assert vae.evidence(rows, estimator="importance", num_samples=5).log_px.shape == (6,)
    scores = vae.anomaly_score(rows, estimator="importance", num_samples=5, num_steps=2, num_held_out=5)
    assert scores.tail_probability.shape == (6,)


def test_one_column_by_name_and_validation_data():
    frame = table()
    options = {**TINY, "conditioning": "prior", "validation_data": table(20, 1)[["a", "b", "sex"]]}
    vae = pyro_vae.fit(frame[["a", "b", "sex"]], y="sex", **options)
    assert vae.sample(2, y="f").shape == (2, 2)
    assert vae.sample_z(4, y=["f", "m", "f", "m"]).shape == (4, 2)
    with pytest.raises(BadInput, match="holds 'x', which is not one of its categories f, m"):
        vae.sample(2, y="x")


def test_kinds_and_types_of_columns():
    frame = table()
    frame["year"], frame["smokes"] = np.arange(80) % 3 + 2007, np.arange(80) % 2 == 0
    names = ["year", "smokes", "age"]
    data = from_frame(frame, y=names, kinds={"year": "categorical", "a": "real"})
    assert [column["kind"] for column in data.covariates] == ["categorical", "categorical", "real"]
    assert data.covariates[0]["categories"] == [2007, 2008, 2009]
    assert [column["name"] for column in data.columns] == ["a", "b", "sex"]
    assert data.num_classes is None
    assert data.train.y.shape == (64, 3)
    assert data.train.y.dtype == torch.float32
    row = data.train.rows[0].item()
    assert data.train.y[0].tolist() == [row % 3, float(row % 2 == 0), np.float32(frame["age"][row])]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (["age", "height"], "y names height, which is not a column of x: a, age, b, sex"),
        (["a", "b", "age", "sex"], "y names all columns of x: leave some to model"),
        (
            pd.DataFrame({"age": [1.0, 2.0, np.nan, np.nan] * 20}),
            "column age of y lacks 40 values, but covariates must be complete",
        ),
        (pd.DataFrame({"sex": ["f", "m", None, None] * 20}), "column sex of y lacks 40 values.*give labels 0, 1"),
        (pd.DataFrame({"age": np.ones(80)}), "column age is constant"),
        (np.arange(158.0).reshape(79, 2), "y has 79 rows, but there are 80 datapoints"),
        (np.array([[0.0, np.inf], [1.0, 2.0]] * 40), "y holds infinite values"),
    ],
)
def test_covariates_that_cannot_be_used(y, message):
    with pytest.raises(BadInput, match=message):
        from_frame(table(), y=y)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "conditional: give y, with columns age, sex"),
        ([40.0], r"y has shape \[1\]: this VAE needs \[N, 2\], with columns age, sex"),
        (np.zeros((2, 3)), r"y has shape \[2, 3\]: this VAE needs \[N, 2\], with columns age, sex"),
        (np.zeros((3, 2)), "y has 3 rows, but there are 2 datapoints"),
        ([40.0, "x"], "column sex holds 'x', which is not one of its categories f, m"),
        (["old", "f"], "column age holds text"),
        ([40.0, 2.0], "y holds 2 in column sex, whose categories have the indices 0 to 1: f, m"),
        ([40.0, 0.5], "y holds 0.5 in column sex"),
        ([np.nan, 1.0], "column age of y lacks 1 values"),
        ([[40.0, "f", 1]], "y has a row of 3 values"),
        ({"age": 40.0}, "y lacks the column sex: this VAE needs the columns age, sex"),
        ({"age": 40.0, "sex": "f", "height": 2.0}, "y has a column height: this VAE needs only age, sex"),
        (pd.DataFrame({"age": [40.0]}), "y lacks the column sex"),
    ],
)
def test_a_y_that_does_not_fit_the_model(y, message):
    with pytest.raises(BadInput, match=message):
        build().sample(2, y=y)


def test_class_labels_are_not_covariates():
    x = np.random.default_rng(0).random((60, 3))
    assert from_array(x, y=np.arange(60) % 3).covariates is None
    with pytest.raises(BadInput, match="needs class labels y"):
        from_array(x, y=x, num_labels=10)
    settings = {"conditioning": "semi_supervised", "covariates": [AGE]}
    with pytest.raises(BadInput, match="needs class labels y"):
        SemiSupervisedVAE.build([4], 2, MLP([8]), StandardNormal, Bernoulli, Diagonal, **settings)
    with pytest.raises(BadInput, match="the model ignores it"):
        pyro_vae.fit(x, x, **TINY)


# Commands ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_commands_take_covariates_by_name_from_a_table(command, tmp_path):
    table().to_csv("people.csv", index=False)
    table(5, 3).to_csv("new.csv", index=False)
    short = ["network.hidden=[8]", "latent_dim=2", "trainer.max_epochs=1", "estimator=importance"]
    train = ["data=table", "data.path=people.csv", *short, "conditioning=concat", "hydra.run.dir=run"]
    outcome = command("train", *train)
    assert outcome.code == 2
    assert "data.y for a table" in outcome.err
    outcome = command("train", *train, "data.y=[age,sex]")
    assert outcome.code == 0, outcome.err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["test"]["given"] == "y"
    outcome = command("evaluate", "run=run", "estimator=importance", "analysis=all", "num_data=8")
    assert outcome.code == 0, outcome.err
    outcome = command("score", "run=run", "data.path=new.csv", "estimator=importance", "num_steps=2")
    assert outcome.code == 0, outcome.err
    outcome = command("train", "resume=run", "trainer.max_epochs=2")
    assert outcome.code == 0, outcome.err


def test_commands_take_continuous_covariates_from_an_archive(command, tmp_path):
    rng = np.random.default_rng(0)
    np.savez("data.npz", x=rng.random((60, 3)), y=rng.normal(size=(60, 2)))
    data = ["data=array", "data.path=data.npz", "data.key=x", "data.label_key=y", "likelihood=gaussian"]
    short = ["network.hidden=[8]", "latent_dim=2", "trainer.max_epochs=1", "estimator=importance"]
    outcome = command("train", *data, *short, "conditioning=prior", "hydra.run.dir=run")
    assert outcome.code == 0, outcome.err
    assert (tmp_path / "run" / "plots" / "manifold.png").is_file()
    assert pyro_vae.load("run").sample(3, y=[0.0, 1.0]).shape == (3, 3)


def test_categories_that_are_numbers_are_categories():
    batch = pd.Categorical([1, 2, 5] * 10)
    y = pd.DataFrame({"batch": batch, "dose": np.linspace(0, 1, 30)})
    columns, values = describe(y, 30)
    assert [column.kind for column in columns] == ["categorical", "real"]
    assert columns[0].categories == (1, 2, 5)
    assert values[:3, 0].tolist() == [0, 1, 2]
    torch.testing.assert_close(values_for(y[:1].assign(batch=5), columns, 1)[0], torch.tensor([2.0, 0.0]).double())
    with pytest.raises(BadInput, match="holds '7', which is not one of its categories 1, 2, 5"):
        values_for({"batch": 7, "dose": 0.5}, columns, 1)
