"""Programs that all estimators read as they are meant, and those that are refused: z ~ N(0, 1), x ~ N(z, 1)."""

import math
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_vae import analysis
from pyro_vae.errors import BadInput
from pyro_vae.marginal import AIS, BDMC, ELBO, NUTS, Exact, Importance, NoEstimate, Prior, Refined
from pyro_vae.marginal.bdmc import simulate
from pyro_vae.objectives import IWAE

SAMPLERS = (Importance(20), ELBO(20), Prior(4000))
WITH_GRADIENTS = (Refined(20), AIS(16, 4, 1, start="guide"), Exact(), BDMC(16, 4, 1, start="guide"))
QUICK = (*SAMPLERS, *WITH_GRADIENTS)
X = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
ZERO = torch.zeros((), dtype=torch.float64)
plate = partial(pyro.plate, "data", dim=-1)


def normal(loc, scale=1.0):
    return dist.Normal(loc + ZERO, scale)


def exact(x):
    return dist.Normal(0.0, math.sqrt(2)).log_prob(x)


def observe(z, x, likelihood=normal):
    pyro.sample("x", likelihood(z), obs=x)


def model(x, y=None):
    with plate(len(x)):
        observe(pyro.sample("z", normal(0)), x)


def guide(x, y=None):
    """The posterior: all weights are p(x)."""
    with plate(len(x)):
        pyro.sample("z", normal(x / 2, math.sqrt(0.5)))


def subsampled(program):
    """The same program for a minibatch of 1000 datapoints."""

    def minibatch(x):
        with pyro.plate("data", 1000, subsample_size=len(x), dim=-1):
            program(x)

    return minibatch


def alone(x):
    observe(pyro.sample("z", normal(torch.zeros_like(x))), x)


def alone_guide(x):
    pyro.sample("z", normal(x / 2, math.sqrt(0.5)))


def given_rows(x):
    with pyro.plate("data", 1000, subsample=torch.arange(len(x)), dim=-1):
        alone(x)


def masked(x):
    with plate(len(x)):
        z = pyro.sample("z", normal(0))
        with poutine.mask(mask=x > 0):
            observe(z, x)


def masked_guide(x):
    with plate(len(x)):
        pyro.sample("z", normal(torch.where(x > 0, x / 2, 0 * x), torch.where(x > 0, math.sqrt(0.5), 1.0)))


def masked_likelihood(x):
    with plate(len(x)):
        observe(pyro.sample("z", normal(0)), x, lambda z: normal(z).mask(x > 0))


def mean_only(x):
    """Its parameters are its own, as before any training."""
    with plate(len(x)):
        pyro.sample("z", normal(pyro.param("loc", ZERO), pyro.param("scale", ZERO + 1.0)))


def with_weights(x):
    w = pyro.sample("w", normal(0))
    with plate(len(x)):
        observe(w * pyro.sample("z", normal(0)), x)


given_weights = poutine.block(poutine.condition(with_weights, {"w": ZERO + 1}), hide=["w"])


def judged(estimator, programs, expected, x=X):
    """Compare with log p(x), for bdmc that of the data it simulates."""
    state = torch.get_rng_state()
    evidence = estimator(*programs, x)
    if isinstance(estimator, BDMC):
        torch.set_rng_state(state)
        x, _ = simulate(programs[0], x)
        assert evidence.extra["gap"].abs().max() < 1e-6
    assert ((evidence.log_px - expected(x)).abs() < 4.5 * evidence.se + 1e-6).all()


@pytest.mark.parametrize(
    ("programs", "expected"),
    [
        ((model, guide), exact),
        ((alone, alone_guide), exact),
        ((subsampled(alone), subsampled(alone_guide)), exact),
        ((subsampled(alone), guide), exact),
        ((model, subsampled(alone_guide)), exact),
        ((given_rows, guide), exact),
        ((given_weights, guide), exact),
    ],
)
def test_all_estimators_read_these(programs, expected):
    for estimator in QUICK:
        judged(estimator, programs, expected)


@pytest.mark.parametrize("program", [masked, masked_likelihood])
def test_masked_data_do_not_count(program):
    for estimator in (*SAMPLERS, *WITH_GRADIENTS[:3]):
        judged(estimator, (program, masked_guide), lambda x: torch.where(x > 0, exact(x), 0 * x))


def test_nuts_reads_a_minibatch():
    judged(NUTS(100, 40), (subsampled(alone), subsampled(alone_guide)), exact, X[:2])


def test_a_guide_need_not_see_the_data():
    for estimator in (Importance(4000), Prior(4000), Refined(20), Exact(), AIS(200, 4, 1)):
        judged(estimator, (model, mean_only), exact)


@pytest.mark.parametrize("estimator", [*SAMPLERS, *WITH_GRADIENTS[:3]])
def test_models_may_observe_several_sites_or_a_factor(estimator):
    def twice(x):
        with plate(len(x)):
            z = pyro.sample("z", normal(0))
            observe(z, x)
            pyro.sample("again", normal(z, 2.0), obs=x)

    def twice_guide(x):
        with plate(len(x)):
            pyro.sample("z", normal(1.25 / 2.25 * x, math.sqrt(1 / 2.25)))

    def factor(x):
        with plate(len(x)):
            z = pyro.sample("z", normal(0))
            pyro.factor("x", normal(z).log_prob(x))

    both = dist.MultivariateNormal(torch.zeros(2).double(), torch.tensor([[2.0, 1.0], [1.0, 5.0]]).double())
    judged(estimator, (twice, twice_guide), lambda x: both.log_prob(torch.stack([x, x], -1)))
    judged(estimator, (factor, guide), exact)


def test_bdmc_refuses_what_it_cannot_simulate():
    def factor(x):
        with plate(len(x)):
            z = pyro.sample("z", normal(0))
            pyro.factor("x", normal(z).log_prob(x))

    def of_logarithms(x):
        with plate(len(x)):
            observe(pyro.sample("z", normal(0)), x.abs().log())

    for program, message in [
        (factor, "site x of the model does not observe x itself, which bdmc simulates: use estimator=ais"),
        (of_logarithms, "site x of the model does not observe x itself"),
        (masked, "site x of the model is masked, but bdmc simulates complete data"),
    ]:
        with pytest.raises(BadInput, match=message):
            BDMC(4, 8, 2)(program, guide, X)


def test_enumerated_sites_of_both_programs_are_drawn():
    def mixture(x):
        with plate(len(x)):
            k = pyro.sample("k", dist.Bernoulli(ZERO + 0.3), infer={"enumerate": "parallel"})
            observe(2 * k, x)

    def posterior(x):
        ratio = 0.3 * normal(2).log_prob(x).exp(), 0.7 * normal(0).log_prob(x).exp()
        with plate(len(x)):
            pyro.sample("k", dist.Bernoulli(ratio[0] / sum(ratio)))

    for estimator in SAMPLERS:
        judged(estimator, (mixture, posterior), lambda x: dist.Normal(ZERO, 1.0).log_prob(x).exp().mul(0.7).add(
            0.3 * dist.Normal(ZERO + 2, 1.0).log_prob(x).exp()).log())  # fmt: skip


def both_masked(program):
    def of_late_ones(x):
        with plate(len(x)), poutine.mask(mask=x > 0):
            program(x)

    return of_late_ones


def test_latents_that_are_masked_in_both_programs_do_not_count():
    programs = both_masked(alone), both_masked(alone_guide)
    for estimator in (*SAMPLERS[:2], Prior(4000)):
        judged(estimator, programs, lambda x: torch.where(x > 0, exact(x), 0 * x))
    for estimator in WITH_GRADIENTS:
        with pytest.raises(BadInput, match="site z is masked: .* use estimator=importance"):
            estimator(*programs, X)


def test_training_objectives_keep_scales():
    loss = IWAE(num_particles=3).loss(poutine.scale(model, scale=2.0), poutine.scale(guide, scale=2.0), X)
    assert loss == pytest.approx(-2 * exact(X).sum().item())


# Refusals


def scaled_latent(program):
    def annealed(x):
        with plate(len(x)), poutine.scale(scale=0.1):
            program(x)

    return annealed


def by_hand(x):
    with plate(len(x)):
        z = pyro.sample("z", normal(0))
        with poutine.scale(scale=torch.tensor(250.0)):
            observe(z, x)


def guide_of(*sites, infer=None):
    def several(x):
        with plate(len(x)):
            for site in sites:
                pyro.sample(site, normal(x / 2), infer=infer if site == "u" else None)

    return several


def guide_with(posterior):
    def of_one_site(x):
        with plate(len(x)):
            pyro.sample("z", posterior(x))

    return of_one_site


def three_classes(x):
    with plate(len(x)):
        observe(pyro.sample("z", dist.Categorical(torch.ones(3))), x)


def two_latents(x):
    with plate(len(x)):
        observe(pyro.sample("z", normal(0)) + pyro.sample("u", normal(0)), x)


def enumerated(x):
    with plate(len(x)):
        k = pyro.sample("k", dist.Bernoulli(ZERO + 0.3), infer={"enumerate": "parallel"})
        observe(k + pyro.sample("z", normal(0)), x)


def partly_observed(x):
    with plate(len(x)):
        z = pyro.sample("z", normal(0))
        pyro.sample("x", normal(z), obs=x, obs_mask=x > 0)


def event_of_all(x):
    observe(pyro.sample("z", normal(torch.zeros_like(x)).to_event(1)), x, lambda z: normal(z).to_event(1))


def event_of_all_guide(x):
    pyro.sample("z", normal(x / 2).to_event(1))


def event_of_all_in_a_plate(x):
    with plate(len(x)):
        z = pyro.sample("z", normal(0))
        pyro.sample("x", normal(z.unsqueeze(-1).expand(*z.shape, len(x))).to_event(1), obs=x)


def shared(x):
    z = pyro.sample("z", normal(0))
    with plate(len(x)):
        observe(z, x)


def shared_guide(x):
    pyro.sample("z", normal(x.mean() / 2))


def sum_of_all(x):
    with plate(len(x)):
        z = pyro.sample("z", normal(0))
        pyro.factor("x", normal(z).log_prob(x).sum(-1, keepdim=True))


def penalty(x):
    model(x)
    pyro.factor("penalty", -ZERO - 3)


def inner_plate(x):
    with plate(len(x)):
        z = pyro.sample("z", normal(0))
        with pyro.plate("pixels", 4):
            observe(z, x)


def at_another_dim(x):
    with pyro.plate("data", len(x), dim=-3):
        z = pyro.sample("z", normal(0))
        observe(z, x[:, None, None])


def at_another_dim_guide(x):
    with pyro.plate("data", len(x), dim=-3):
        pyro.sample("z", normal(x[:, None, None] / 2))


def one_by_one(x):
    for i in pyro.plate("data", len(x)):
        pyro.sample(f"x{i}", normal(pyro.sample(f"z{i}", normal(0))), obs=x[i])


def one_by_one_guide(x):
    for i in pyro.plate("data", len(x)):
        pyro.sample(f"z{i}", normal(x[i] / 2))


def observing_guide(x):
    with plate(len(x)):
        alone_guide(x)
        pyro.sample("x", normal(0), obs=x)


def rewarded_guide(x):
    with plate(len(x)):
        alone_guide(x)
        pyro.factor("reward", ZERO + 1, has_rsample=True)


def masked_latent(x):
    with plate(len(x)):
        with poutine.mask(mask=x > 5):
            z = pyro.sample("z", normal(0))
        observe(z, x)


def masked_prior(x):
    with plate(len(x)):
        observe(pyro.sample("z", normal(0).mask(False)), x)


def unobserved(x):
    with plate(len(x)):
        pyro.sample("z", normal(0))


def forgotten(x):
    with plate(len(x)):
        pyro.sample("x", normal(pyro.sample("z", normal(0))))


def same_name(x):
    with plate(len(x)):
        alone(x)
        observe(ZERO, x)


def minibatch_of_a_table(x):
    table = torch.linspace(-3, 3, 1000).double()
    with pyro.plate("data", 1000, subsample_size=len(x), dim=-1) as rows:
        observe(pyro.sample("z", normal(0)), table[rows])


def table_guide(x):
    locs = pyro.param("locs", torch.linspace(-3, 3, 1000).double())
    with pyro.plate("data", 1000, subsample_size=len(x), dim=-1) as rows:
        pyro.sample("z", normal(locs[rows]))


def rows_of_x(x):
    with pyro.plate("data", 1000, subsample_size=len(x), dim=-1) as rows:
        observe(pyro.sample("z", normal(0)), x[rows])


NORM = torch.nn.BatchNorm1d(1).double()


def normalizing_guide(x):
    with plate(len(x)):
        pyro.sample("z", normal(NORM(x.unsqueeze(-1)).squeeze(-1)))


REFUSED = {
    "scaled programs": (
        (poutine.scale(model, scale=0.5), poutine.scale(guide, scale=0.5)),
        "the log-density of site z of the model is scaled by 0.5: remove poutine.scale",
    ),
    "scaled guide": ((model, poutine.scale(guide, scale=0.5)), "site z of the guide is scaled by 0.5"),
    "annealed KL": ((scaled_latent(alone), scaled_latent(alone_guide)), "site z of the model is scaled by 0.1"),
    "scaled by hand": ((by_hand, guide), "site x of the model is scaled by 250"),
    "scaled minibatch": (
        (poutine.scale(subsampled(alone), scale=0.001), subsampled(alone_guide)),
        "site z of the model is scaled by 0.001",
    ),
    "in the model only": ((two_latents, guide), "site u of the model is not in the guide: both must draw the same"),
    "in the guide only": ((model, guide_of("z", "u")), "site u of the guide is not in the model: both must draw"),
    "auxiliary": (
        (model, guide_of("z", "u", infer={"is_auxiliary": True})),
        "site u of the guide is not in the model: both must draw the same latents, also those that are auxiliary",
    ),
    "other name": ((model, guide_of("latent")), "site z of the model is not in the guide"),
    "half the support": (
        (model, guide_with(lambda x: dist.HalfNormal(x.abs()))),
        r"the guide never draws site z from a part of its support in the model \(.*\): use a distribution with the",
    ),
    "too few classes": (
        (three_classes, guide_with(lambda x: dist.Categorical(torch.ones(2)))),
        "the guide never draws site z from a part of its support",
    ),
    "enumerated": ((enumerated, guide), "site k of the model is not in the guide: .* or enumerated"),
    "obs_mask": ((partly_observed, guide), "site x_unobserved of the model is not in the guide"),
    "batch as an event": (
        (event_of_all, event_of_all_guide),
        r"site z of the model is not in a plate .* has shape \[100, 1\] instead of \[100, 2\]; .* to_event",
    ),
    "batch as an event, in a plate": (
        (event_of_all_in_a_plate, guide),
        "the log-density of site x of the model at a datapoint depends on other datapoints: use to_event",
    ),
    "shared latent": ((shared, shared_guide), "site z of the model is not in a plate of the datapoints at dim=-1"),
    "weights": ((with_weights, guide), "site w of the model is not in the guide"),
    "observed weights": (
        (poutine.condition(with_weights, {"w": ZERO}), guide),
        "site w of the model is not in a plate",
    ),
    "sum over the batch": ((sum_of_all, guide), "site x of the model at a datapoint depends on other datapoints"),
    "penalty": ((penalty, guide), r"site penalty of the model is not in a plate .* has shape \[100, 1\]"),
    "inner plate": ((inner_plate, guide), r"site x of the model is not in a plate .* has shape \[4, 100, 2\]"),
    "another dim": (
        (at_another_dim, at_another_dim_guide),
        r"site z of the model is not in a plate of the datapoints at dim=-1: .* shape \[2, 100, 1\]",
    ),
    "sequential plate": ((one_by_one, one_by_one_guide), "site z0 of the model is not in a plate"),
    "observing guide": ((model, observing_guide), "site x of the guide is observed or a pyro.factor: the guide must"),
    "factor in the guide": ((model, rewarded_guide), "site reward of the guide is observed or a pyro.factor"),
    "masked latent": ((masked_latent, guide), "the mask of site z is not the same in model and guide"),
    "masked prior": ((masked_prior, guide), "the mask of site z is not the same in model and guide"),
    "nothing observed": ((unobserved, guide), "the model has no sites that are observed: it must observe x"),
    "no obs": ((forgotten, guide), "site x of the model is not in the guide"),
    "twice the same name": ((same_name, guide), "do not run .*Multiple sample sites named 'x'"),
    "table of data": ((minibatch_of_a_table, guide), "site x of the model depends on the indices of a plate that"),
    "table of parameters": ((model, table_guide), "site z of the guide depends on the indices of a plate that"),
    "rows of a minibatch": ((rows_of_x, guide), "do not run on several samples of x at once"),
    "batch normalization": ((model, normalizing_guide), "depends on other datapoints: .* eval()"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_all_estimators_and_analyses_refuse_these(name):
    programs, message = REFUSED[name]
    for estimator in (*QUICK, NUTS(10, 10), NoEstimate()):
        with pytest.raises(BadInput, match=message):
            estimator(*programs, X)
    for call in (
        lambda: analysis.gaps(*programs, X, Importance(4)),
        lambda: analysis.surgery(*programs, X),
        lambda: analysis.impute(*programs, X, X > 0, num_steps=1),
    ):
        with pytest.raises(BadInput, match=message):
            call()
