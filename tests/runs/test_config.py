"""conf/ and the code agree; what Hydra says of a wrong key becomes one line with the choices."""

import pytest
from hydra.utils import get_method, instantiate
from omegaconf import OmegaConf

from pyro_vae.errors import BadInput
from pyro_vae.runs.config import CONFIG_DIR, compose

OPTIONS = [
    (p.parent.name, p.stem)
    for p in sorted(CONFIG_DIR.glob("*/*.yaml"))
    if p.parent.name not in ("experiment", "conditioning", "launcher")  # which set keys of other groups
    and (p.parent.name, p.stem) != ("missingness", "none")  # which is null
]


@pytest.mark.slow
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_names_what_exists_with_arguments_it_takes(group, option):
    config = compose([f"{group}={option}"])[group]
    target = get_method(config._target_)
    # the file's keys are the target's parameters (data sets pass on what Dataset takes)
    settings = {k: v for k, v in OmegaConf.to_container(config, resolve=True).items() if not k.startswith("_")}
    import inspect

    inspect.signature(target).bind_partial(**settings)
    if group in ("network", "objective", "trainer", "estimator"):
        instantiate(config)


EXPERIMENTS = [
    str(p.relative_to(CONFIG_DIR / "experiment").with_suffix("")) for p in CONFIG_DIR.rglob("experiment/**/*.yaml")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_compose(name):
    config = compose([f"+experiment={name}"])
    assert set(config) >= {"seed", "latent_dim", "resume", "data", "trainer"}
    OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


def test_the_schedule_of_iwae_table_1():
    config = compose(["+experiment=iwae_table1/two_layer_iwae_k50"])
    passes = [3**i for i in range(8)]
    assert config.trainer.max_epochs == sum(passes)
    assert config.scheduler.milestones == [sum(passes[:i]) for i in range(1, 8)]
    assert config.scheduler.gamma == pytest.approx(10 ** (-1 / 7), rel=1e-12)
    assert (config.objective._target_, config.objective.num_particles) == ("pyro_vae.objectives.IWAE", 50)
    assert (config.latent_dim, config.network.upper_hidden) == ([100, 50], [100, 100])


def test_conditioning_by_the_prior_chooses_the_prior():
    assert compose(["conditioning=prior"]).prior._target_ == "pyro_vae.priors.ClassConditional"
    assert compose(["conditioning=prior", "prior=mixture"]).prior._target_ == "pyro_vae.priors.Mixture"
    for option in ("none", "prior", "concat"):
        assert compose([f"conditioning={option}"]).conditioning == option


def test_top_level_keys_are_few():
    groups = {p.name for p in CONFIG_DIR.iterdir() if p.is_dir()}
    assert set(compose([])) - groups == {"seed", "latent_dim", "resume", "second_estimator", "plots", "trust"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("guide=banana", "guide=banana is unknown: choose one of .*diagonal, enumerated, full_covariance"),
        ("likelihood=banana", "likelihood=banana is unknown: choose one of bernoulli, beta, .*gaussian"),
        ("data=banana", "data=banana is unknown: .*mnist5k"),
        ("+experiment=banana", "experiment=banana is unknown: .*gaussian"),
        ("banana=1", "banana is not a key.*latent_dim"),
        ("trainer.max_epoch=1", r"trainer.max_epoch is not a key.*did you mean max_epochs\?"),
        ("max_epochs=1", r"max_epochs is not a key.*did you mean trainer.max_epochs\?"),
        ("data.path=x.npy", r"did you mean data.path of data=array or data=table\?"),
        ("guide.rank=3", r"did you mean guide.rank of guide=low_rank\?"),
        ("compile=true", r"did you mean trainer.compile or estimator.compile\?"),
        ("trainer.seed=1", r"trainer.seed is not a key.*did you mean seed\?"),
        ("guides=diagonal", r"guides is not a key.*did you mean guide\?"),
        ("experiment=bernoulli", r"\+experiment=bernoulli"),
        ("latent_dim", "latent_dim"),
        ("seed=[1", "seed"),
    ],
)
def test_unknown_keys_name_the_valid_ones(override, message):
    with pytest.raises(BadInput, match=message) as caught:
        compose([override])
    assert "\n" not in str(caught.value)
