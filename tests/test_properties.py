"""Any configuration trains to finite numbers or is refused by one line."""

import itertools
import re

import numpy as np
import pytest
from conftest import BINARY, COLUMNS, as_override, one_error_line
from hydra.utils import instantiate
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from test_combinations import refused

from pyro_vae.data import from_array
from pyro_vae.runs.config import CONFIG_DIR, compose
from pyro_vae.runs.in_memory import NOT_IN_MEMORY
from pyro_vae.runs.run import train

options = {
    folder.name: sorted(file.stem for file in folder.glob("*.yaml"))
    for folder in CONFIG_DIR.iterdir()
    if folder.is_dir()
}
QUICKLY = {"deadline": None, "derandomize": True, "suppress_health_check": list(HealthCheck)}
RNG = np.random.default_rng(0)
# what each likelihood is of
DATA = {
    "binary": RNG.random((200, 6)) < 0.4,
    "inside": (0.1 + 0.8 * RNG.random((200, 6))).astype(np.float32),
    "real": RNG.normal(size=(200, 6)).astype(np.float32),
    "counts": RNG.poisson(3.0, (200, 6)).astype(np.float32),
    "grey": RNG.integers(0, 256, (200, 6)).astype(np.uint8),
}
KIND = {
    "bernoulli": "binary", "continuous_bernoulli": "inside", "beta": "inside", "gaussian": "real", "student_t": "real",
    "poisson": "counts", "negative_binomial": "counts", "discretized_logistic": "grey", "categorical": "grey",
    "discretized_logistic_mixture": "grey", "table": "binary",
}  # fmt: skip
FITTING = {
    "vamp": ["prior.num_pseudo_inputs=4"],
    "table": [f"likelihood.columns={as_override([*COLUMNS, BINARY])}"],
}


def choose(group):
    return st.sampled_from(options[group])


@st.composite
def configurations(draw):
    """Options that go together, and their values, within their bounds."""
    groups = ("guide", "prior", "objective", "likelihood", "optimizer", "scheduler")
    chosen = {group: draw(choose(group)) for group in groups}
    assume(refused(chosen["guide"], chosen["prior"], chosen["objective"]) is None)
    assume(chosen["prior"] != "class_conditional")
    hidden = draw(st.lists(st.integers(1, 12), max_size=2))
    return [
        *(f"{group}={option}" for group, option in chosen.items()),
        *itertools.chain.from_iterable(FITTING.get(option, []) for option in chosen.values()),
        "data=array",
        f"data.split_seed={draw(st.integers(0, 99))}",
        f"seed={draw(st.integers(0, 2**32 - 1))}",
        f"latent_dim={draw(st.integers(1, 4))}",
        f"network.hidden={hidden}",
        f"trainer.batch_size={draw(st.integers(60, 100))}",
        f"trainer.clip_norm={draw(st.sampled_from(['null', 1e-3, 10.0]))}",
        f"optimizer.lr={draw(st.floats(1e-6, 1e-3))}",
        "trainer.max_epochs=1",
    ], KIND[chosen["likelihood"]]


def train_and_evaluate(overrides, x, run_dir):
    config = compose(overrides)
    settings = {key: value for key, value in config.data.items() if key not in NOT_IN_MEMORY}
    data = from_array(x, **settings)
    vae, state = train(config, data, run_dir)
    assert state.step >= 2
    return vae, data


@pytest.mark.slow
@settings(max_examples=3, **QUICKLY)
@given(configuration=configurations())
def test_what_goes_together_trains_and_evaluates(tmp_path_factory, configuration):
    check_run(tmp_path_factory, configuration)


@pytest.mark.slow
@settings(max_examples=300, **QUICKLY)
@given(configuration=configurations())
def test_what_goes_together_trains_and_evaluates_300_times(tmp_path_factory, configuration):
    check_run(tmp_path_factory, configuration)


def check_run(tmp_path_factory, configuration):
    overrides, kind = configuration
    vae, data = train_and_evaluate(overrides, DATA[kind], tmp_path_factory.mktemp("run"))
    assert vae.sample(3).shape == (3, 6)
    assert vae.encode(data.test.x).isfinite().all()
    if "guide=point" not in overrides:
        evidence = instantiate(compose(["estimator=importance", "estimator.num_samples=20"]).estimator)(
            vae.model, vae.guide, data.test.x
        )
        assert evidence.log_px.isfinite().all()
        assert evidence.elbo.isfinite().all()


CONFIG = compose(["data=array"])
GROUPS = [group for group in CONFIG if isinstance(CONFIG[group], DictConfig)]
LEAVES = [f"{group}.{key}" for group in GROUPS for key in CONFIG[group] if not key.startswith("_")]
LEAVES += ["latent_dim", "seed"]
VALUES = [
    "banana", "-1", "0", "1", "0.5", "2.5", "1e9", "-1e-9", "nan", "inf", "-inf", "null", "true", "''", "[]", "[1,2]",
    "{}", "{a:1}", "[[]]", "1e400",
]  # fmt: skip
LONG = (
    "trainer.max_epochs", "latent_dim", "estimator.num_samples", "estimator.num_elbo_steps", "trainer.val_num_samples",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("key", [key for key in LEAVES if key not in ("data.path", "scheduler.total_iters")])
def test_no_option_takes_a_banana(command, small_data, key):
    outcome = command("train", "data=array", small_data, "network.hidden=[4]", "trainer.max_epochs=1", f"{key}=banana")
    one_error_line(outcome, "banana")


PAIRS = st.lists(st.tuples(st.sampled_from(LEAVES), st.sampled_from(VALUES)), min_size=1, max_size=3)


@settings(max_examples=5, **QUICKLY)
@given(pairs=PAIRS)
def test_whatever_is_given_there_is_a_result_or_a_line(command, small_data, tmp_path_factory, pairs):
    check_command(command, small_data, tmp_path_factory, pairs)


@pytest.mark.slow
@settings(max_examples=300, **QUICKLY)
@given(pairs=PAIRS)
def test_whatever_is_given_there_is_a_result_or_a_line_300_times(command, small_data, tmp_path_factory, pairs):
    check_command(command, small_data, tmp_path_factory, pairs)


def check_command(command, small_data, tmp_path_factory, pairs):
    small = {"network.hidden": "[4]", "latent_dim": "2", "trainer.max_epochs": "1", "estimator": "importance"}
    chosen = small | {key: value for key, value in pairs if not (key in LONG and value == "1e9")}
    run_dir = tmp_path_factory.mktemp("run")
    outcome = command(
        "train", "data=array", small_data, *(f"{k}={v}" for k, v in chosen.items()), f"hydra.run.dir={run_dir}"
    )
    assert outcome.code in (0, 1, 2)
    assert "Traceback" not in outcome.err
    lines = [line for line in outcome.err.splitlines() if not re.search(r"\bwarning:|Warning", line)]
    if outcome.code == 0:
        assert (run_dir / "results.json").exists()
    else:
        assert len(lines) == 1, outcome.err
        assert lines[0].startswith("error: ")
