"""What each likelihood says of data and of options, and that conf/ offers just those."""

import inspect
import re
from functools import partial

import pytest
import torch
from hydra.utils import get_class, instantiate

from pyro_vae.errors import BadInput
from pyro_vae.likelihoods import (
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    DiscretizedLogistic,
    Gaussian,
    NegativeBinomial,
    Poisson,
    StudentT,
)
from pyro_vae.runs.config import CONFIG_DIR, compose


@pytest.mark.parametrize("likelihood", [Gaussian, StudentT])
def test_columns_are_taken_as_they_come_unless_their_squares_overflow(likelihood):
    check = likelihood([2]).check
    assert check(torch.tensor([[0.1, -5.2e5]])) is None
    with pytest.raises(BadInput, match="which reach 5.2e.20: divide them by 5e.20"):
        check(torch.tensor([[0.1, -5.2e20]]))


BINARY = torch.tensor([[0.0, 1, 1]])
INNER = torch.tensor([[0.1, 0.5, 0.9]])
UNIT = torch.tensor([[0.0, 0.5, 1]])
REAL = torch.tensor([[-2.0, 0.3, 3]])
COUNTS = torch.tensor([[0.0, 3, 16]])
LEVELS3 = partial(Categorical, num_levels=3)
LOGISTIC3 = partial(DiscretizedLogistic, num_levels=3)


@pytest.mark.parametrize(
    ("family", "x"),
    [
        (Bernoulli, BINARY),
        (ContinuousBernoulli, UNIT),
        (Gaussian, REAL),
        (Gaussian, UNIT),
        (StudentT, REAL),
        (Beta, INNER),
        (Categorical, torch.arange(256.0).unsqueeze(0) / 255),
        (partial(Categorical, num_levels=2), BINARY),
        (LEVELS3, UNIT),
        (LOGISTIC3, UNIT),
        (Poisson, COUNTS),
        (NegativeBinomial, COUNTS),
    ],
)
def test_says_nothing_where_log_px_means_what_it_says(family, x):
    assert family([3]).check(x) is None


@pytest.mark.parametrize(
    ("family", "x", "warning"),
    [
        (Bernoulli, UNIT, "likelihood=bernoulli .*not a likelihood of these data.*data.binarize=dynamic"),
        (ContinuousBernoulli, BINARY, "likelihood=continuous_bernoulli on binary data.*likelihood=bernoulli"),
        (Gaussian, BINARY, "likelihood=gaussian on binary data.*is a density.*likelihood=bernoulli"),
        (StudentT, BINARY, "likelihood=student_t on binary data"),
        (LEVELS3, BINARY, "likelihood=categorical with 3 levels on data that are 0 or 1.*data.binarize=none"),
        (Poisson, BINARY, "likelihood=poisson on data that are 0 or 1: use data.binarize=none.*likelihood=bernoulli"),
        (NegativeBinomial, BINARY, "likelihood=negative_binomial on data that are 0 or 1"),
        (LOGISTIC3, BINARY, "likelihood=discretized_logistic with 3 levels on data that are 0 or 1"),
    ],
)
def test_warns_where_it_does_not(family, x, warning):
    text = family([3]).check(x)
    assert re.match(warning, text)
    assert "\n" not in text


@pytest.mark.parametrize(
    ("family", "x", "message"),
    [
        (Bernoulli, REAL, r"likelihood=bernoulli needs values in \[0, 1\], the data span \[-2, 3\].*gaussian"),
        (Bernoulli, COUNTS, r"needs values in \[0, 1\], the data span \[0, 16\]"),
        (ContinuousBernoulli, REAL, r"likelihood=continuous_bernoulli needs values in \[0, 1\]"),
        (Beta, UNIT, r"likelihood=beta needs values strictly between 0 and 1.*\[0, 1\].*data.dequantize=true"),
        (Beta, INNER + 0.1, "likelihood=beta"),
        (Beta, INNER - 0.1, "likelihood=beta"),
        (LEVELS3, INNER, "likelihood=categorical needs values k/2, k = 0, …, 2, and 2 values.*data.num_levels"),
        (LEVELS3, COUNTS, "likelihood=categorical needs values k/2"),
        (LEVELS3, UNIT - 0.5, "likelihood=categorical needs values k/2"),
        (LOGISTIC3, INNER, "likelihood=discretized_logistic needs values k/2"),
        (Poisson, UNIT, "likelihood=poisson needs counts 0, 1, 2, …, but 1 values of the data are not.*counts=true"),
        (Poisson, -COUNTS, "likelihood=poisson needs counts 0, 1, 2, …, but 2 values"),
        (NegativeBinomial, UNIT, "likelihood=negative_binomial needs counts"),
    ],
)
def test_refuses_data_that_it_cannot_take(family, x, message):
    with pytest.raises(BadInput, match=message) as caught:
        family([3]).check(x)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "settings", "message"),
    [
        (Gaussian, {"scale": "free"}, "scale=free.*fixed, learned, per_pixel"),
        (Gaussian, {"init_scale": 0}, "init_scale=0"),
        (Gaussian, {"init_scale": float("nan")}, "init_scale=nan"),
        (Gaussian, {"min_scale": -1}, "min_scale=-1"),
        (Gaussian, {"init_scale": 0.01, "min_scale": 0.1}, "init_scale=0.01 must exceed min_scale=0.1"),
        (StudentT, {"df": 2}, "df=2 must exceed 2"),
        (StudentT, {"df": "abc"}, "df=abc"),
        (StudentT, {"init_scale": 0.01, "min_scale": 0.01}, "must exceed min_scale=0.01"),
        (Gaussian, {"scale": "fixed", "min_scale": -1}, "min_scale=-1"),
        (Beta, {"init_concentration": 0}, "init_concentration=0"),
        (Beta, {"min_concentration": 0}, "min_concentration=0"),
        (Categorical, {"num_levels": 1}, "num_levels=1 must be an integer of at least 2"),
        (Categorical, {"num_levels": 2.5}, "num_levels=2.5"),
        (DiscretizedLogistic, {"num_levels": True}, "num_levels=True"),
        (DiscretizedLogistic, {"num_components": 0}, "num_components=0"),
        (DiscretizedLogistic, {"min_scale": 0}, "min_scale=0"),
        (NegativeBinomial, {"min_dispersion": 0}, "min_dispersion=0"),
        (NegativeBinomial, {"init_dispersion": -1}, "init_dispersion=-1"),
    ],
)
def test_refuses_bad_settings(family, settings, message):
    with pytest.raises(BadInput, match=message):
        family([3], **settings)


@pytest.mark.parametrize("option", [p.stem for p in CONFIG_DIR.glob("likelihood/*.yaml") if p.stem != "table"])
def test_conf_has_every_option_with_its_default(option):
    config = compose([f"likelihood={option}", "data=digits"])
    family = get_class(config.likelihood._target_)
    defaults = {k: p.default for k, p in inspect.signature(family).parameters.items() if k != "data_shape"}
    special = {"num_levels": 17, "num_components": 5 if option.endswith("mixture") else 1}
    assert dict(config.likelihood) == {
        "_target_": config.likelihood._target_,
        **{k: special.get(k, v) for k, v in defaults.items()},
    }
    likelihood = instantiate(config.likelihood, [2, 3])
    assert likelihood.param_shape[1:] == (2, 3)
    densities = {"gaussian", "continuous_bernoulli", "beta", "student_t"}
    assert likelihood.discrete == (option not in densities)


def test_data_whose_squares_underflow_are_rejected():
    with pytest.raises(BadInput, match=r"which reach 5.2e-30: multiply by 2e\+29"):
        Gaussian([2]).check(torch.tensor([[0.0, -5.2e-30]]))
    Gaussian([2]).check(torch.zeros(1, 2))  # rows of zeros are data like others
