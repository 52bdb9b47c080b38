"""Draw the pictures of the documentation: python docs/figures/draw.py (two minutes of work on one core).

Each guide, prior and estimator is shown on a toy whose truth is known, and each figure that a command draws is one of a
short run. `python docs/figures/draw.py guides` draws only those of guides; `priors`, `estimators` and `commands` the
others.
"""

from __future__ import annotations

import math
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pyro
import torch
from commands import draw_commands, small, write
from matplotlib.axes import Axes
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor, nn

import pyro_vae
from pyro_vae import VAE, data, guides, marginal, priors
from pyro_vae.likelihoods import Gaussian
from pyro_vae.marginal.bdmc import simulate
from pyro_vae.networks import MLP
from pyro_vae.runs.plots.style import BLUE, DATA, GREEN, ORANGE, RED, STYLE

HERE = Path(__file__).parent
SIGMA = 0.4
X = 1.5
"""The datapoint whose posterior the guides approximate."""
AXIS = torch.linspace(-4, 4, 161)
STEP = float(AXIS[1] - AXIS[0])
GRID = torch.stack(torch.meshgrid(AXIS, AXIS, indexing="xy"), -1).reshape(-1, 2)
WIDE = 1.5
"""Ratio of the grid of priors to GRID."""


class Bend(nn.Module):
    """Decode z `[..., 2]` to x = z₁² + z₂: posteriors are crescents, of two modes where x is large."""

    def forward(self, z: Tensor) -> Tensor:
        """Return x `[..., 1]`."""
        return z[..., :1] ** 2 + z[..., 1:]


def toy(guide: Any) -> VAE:
    """Build z ~ N(0, I), x ~ N(z₁² + z₂, 0.4²) with a guide."""
    pyro.set_rng_seed(0)
    pyro.clear_param_store()
    likelihood = partial(Gaussian, scale="fixed", init_scale=SIGMA)
    vae = VAE.build([1], 2, MLP([32]), priors.StandardNormal, likelihood, guide)
    vae.decoder = nn.Sequential(Bend(), nn.Unflatten(-1, (1, 1)))  # one parameter of x, its mean
    return vae


def train(vae: VAE, x: Tensor, num_steps: int, lr: float = 0.02) -> None:
    """Fit the guide to datapoints x `[N, 1]`."""
    optimizer = pyro.optim.ClippedAdam({"lr": lr, "lrd": 0.05 ** (1 / num_steps), "clip_norm": 1e6})
    svi = SVI(vae.model, vae.guide, optimizer, Trace_ELBO())
    for _ in range(num_steps):
        svi.step(x[torch.randint(len(x), (64,))])


@torch.no_grad()
def log_joint(x: Tensor) -> Tensor:
    """Compute log p(x, z) of datapoints `[N, 1]` at all points of the grid, `[N, G]`."""
    log_prior = torch.distributions.Normal(0.0, 1.0).log_prob(GRID).sum(-1)
    return log_prior + torch.distributions.Normal(Bend()(GRID)[:, 0], SIGMA).log_prob(x)


def exact(x: Tensor) -> Tensor:
    """Compute log p(x) of datapoints `[N, 1]` by a sum over the grid, `[N]`."""
    return log_joint(x).logsumexp(1) + 2 * math.log(STEP)


def plane(title: str, end: float = 3.2) -> Axes:
    """Return axes of the latent plane, from -end to end."""
    ax = small(title, "z₁", "z₂")
    ax.set(xlim=(-end, end), ylim=(-end, end), aspect="equal")
    ax.grid(visible=False)
    return ax


def shade(ax: Axes, log_density: Tensor, scale: float = 1.0) -> None:
    """Shade a density on the grid times `scale`."""
    levels = torch.linspace(0.02, 1, 12) * float(log_density.exp().max())
    ax.contourf(
        scale * AXIS,
        scale * AXIS,
        log_density.exp().reshape(161, 161),
        levels=levels.tolist(),
        cmap="Greys",
        extend="max",
    )


def contours(ax: Axes, log_density: Tensor, color: str = BLUE, style: str = "-") -> None:
    """Draw the contours that enclose 30, 60 and 90 % of a density's mass."""
    p, _ = log_density.exp().sort(descending=True)
    mass = p.cumsum(0) * STEP**2
    levels = sorted({float(p[(mass < share).sum().clamp(max=len(p) - 1)]) for share in (0.3, 0.6, 0.9)})
    ax.contour(AXIS, AXIS, log_density.exp().reshape(161, 161), levels=levels, colors=color, linestyles=style,
               linewidths=1.3)  # fmt: skip


GUIDES: dict[str, Any] = {
    "diagonal": guides.Diagonal,
    "full_covariance": guides.FullCovariance,
    "low_rank": partial(guides.LowRank, rank=1),
    "mixture": guides.Mixture,
    "inverse_autoregressive": guides.InverseAutoregressive,
    "neural_spline": guides.NeuralSpline,
    "semi_amortized": guides.SemiAmortized,
    "point": guides.Point,
}


def draw_guides() -> None:
    """Draw q beside the true posterior of one datapoint, whose crescent no Gaussian matches."""
    x = torch.full((64, 1), X)
    log_posterior = (log_joint(x[:1]) - exact(x[:1]).unsqueeze(1))[0]
    for name, guide in GUIDES.items():
        vae = toy(guide)
        if name != "semi_amortized":
            train(vae, x, 1200 if name == "inverse_autoregressive" else 500)
        with torch.no_grad():
            q = vae.q_z(x[:1])
            ax = plane(name)
            shade(ax, log_posterior)
            if name == "point":
                ax.plot(*q.mean[0], "o", ms=7, color=BLUE)
                ax.set_title("point\nno density, no log p(x)", fontsize=10)
            else:
                log_q = q.log_prob(GRID.unsqueeze(1))[:, 0]
                kl = float((log_q.exp() * (log_q - log_posterior)).sum() * STEP**2)
                ax.set_title(f"{name}\nKL(q ‖ p) = {kl:.2f} nats", fontsize=10)
                contours(ax, log_q)
            if name == "semi_amortized":
                loc, log_scale = vae.posterior.loc_log_scale(vae.encoder(x[:1])).chunk(2, -1)
                start = torch.distributions.Normal(loc, log_scale.exp())
                contours(ax, start.log_prob(GRID).sum(-1), ORANGE, "--")
        write(ax.figure, f"guide_{name}")
    draw_discrete_guides()


def draw_discrete_guides() -> None:
    """Draw q(z | x) of five categories beside the exact p(z | x)."""
    K, x = 5, torch.full((64, 1), 1.0)
    shown = {"enumerated": guides.Enumerated, "categorical": guides.Categorical}
    found: dict[str, Tensor] = {}
    for name, guide in shown.items():
        pyro.set_rng_seed(0)
        pyro.clear_param_store()
        likelihood = partial(Gaussian, scale="fixed", init_scale=0.8)
        vae = VAE.build([1], K, MLP([]), priors.Categorical, likelihood, guide)
        with torch.no_grad():
            vae.decoder[0].bias.zero_()
            vae.decoder[0].weight.copy_(torch.tensor([[-1.0, 0.0, 0.6, 1.5, 3.0]]))
        vae.decoder.requires_grad_(False)
        if name == "categorical":
            train(vae, x, 1500, lr=0.003)
        with torch.no_grad():
            found[name] = vae.q_z(x[:1]).probs[0]
        ax = small(f"{name}: K = {K} categories", "category of z", "q(z | x), grey: p(z | x)")
        ax.bar(range(1, K + 1), found["enumerated"], color=DATA, alpha=0.5, width=0.8)
        ax.bar(range(1, K + 1), found[name], color=BLUE, width=0.4)
        write(ax.figure, f"guide_{name}")


PRIORS: dict[str, Any] = {
    "standard_normal": "standard_normal",
    "mixture": ("mixture", {"num_components": 8}),
    "vamp": ("vamp", {"num_pseudo_inputs": 12}),
    "flow": ("flow", {"num_transforms": 2, "hidden": [32]}),
    "class_conditional": ("class_conditional", {"radius": 1.5}),
}


def draw_priors() -> None:
    """Draw the density of each prior and samples of it, learned with a VAE of a ring."""
    x, wide = data.ring().train.x[:600], WIDE * GRID
    y = (torch.atan2(x[:, 1], x[:, 0]) / (2 * math.pi) * 3).floor().long() % 3
    for name, prior in PRIORS.items():
        labels = {"y": y, "conditioning": "prior"} if name == "class_conditional" else {}
        vae = pyro_vae.fit(
            x, likelihood="gaussian", latent_dim=2, prior=prior, guide="diagonal", max_epochs=30, batch_size=60,
            lr=1e-2, val_fraction=0, overrides=["network.hidden=[32]", "likelihood.init_scale=0.1",
                                                "trainer.compile=false"], **labels,
        )  # fmt: skip
        ax = plane(name, 5.5)
        with torch.no_grad():
            classes = torch.arange(3) if labels else None
            z = vae.sample_z(150, y=None if classes is None else classes.repeat(50))
            log_p = vae.p_z(classes).log_prob(wide.unsqueeze(1) if labels else wide)
            shade(ax, log_p.logsumexp(1) - math.log(3) if labels else log_p, WIDE)
            if classes is None:
                ax.plot(*z.T, ".", ms=3.5, color=ORANGE)
            for c, color in enumerate((ORANGE, GREEN, BLUE) if labels else ()):
                ax.plot(*z[c::3].T, ".", ms=3.5, color=color)
        write(ax.figure, f"prior_{name}")
    prior = priors.Categorical(4)
    ax = small("categorical", "category of z", "p(z)")
    with torch.no_grad():
        ax.bar(range(1, 5), prior().probs, color=DATA, alpha=0.6)
        counts = prior().sample([150]).sum(0)
    ax.plot(range(1, 5), counts / counts.sum(), "o", color=ORANGE)
    write(ax.figure, "prior_categorical")


ESTIMATORS: dict[str, Any] = {
    "auto": marginal.Auto(),
    "refined": marginal.Refined(100),
    "importance": marginal.Importance(100),
    "elbo": marginal.ELBO(100),
    "prior": marginal.Prior(100),
    "ais": marginal.AIS(num_samples=32, num_temperatures=20),
    "bdmc": marginal.BDMC(num_samples=32, num_temperatures=20),
    "sandwich": marginal.Sandwich(num_samples=500, num_chains=4, num_warmup=30, num_draws=60),
}


def draw_estimators() -> None:
    """Draw the error of each estimate, against the sum over a grid."""
    vae = toy(guides.Diagonal)
    with torch.no_grad():
        many = vae.p_x(torch.randn(2000, 2)).sample()
    train(vae, many, 800)
    x = torch.linspace(-1.5, 4.5, 13).unsqueeze(1)
    for name, estimator in ESTIMATORS.items():
        pyro.set_rng_seed(1)
        here = simulate(vae.model, x)[0] if name == "bdmc" else x
        pyro.set_rng_seed(1)
        found = estimator(vae.model, vae.guide, x)
        truth = exact(here)
        error = found.log_px - truth
        ax = small(f"{name}: mean error {error.mean():+.3f}".replace("-", "−"), "x", "error, nats",
                   (3.6, 2.7))  # fmt: skip
        ax.axhline(0, color="0.3", lw=1)
        upper, kind = found.extra.get("log_px_upper"), ""
        if upper is not None:
            kind = "lower bound: "
            noise = 2 * found.extra.get("log_px_upper_se", torch.zeros(len(x)))
            ax.errorbar(here[:, 0], upper - truth, noise, fmt="v", color=GREEN, mfc="none", ms=9, lw=1, capsize=4,
                        label="upper bound", zorder=1)  # fmt: skip
            ax.set_title(f"{name}: bounds {(upper - found.log_px).mean():.3f} nats apart", fontsize=10)
        flagged = found.unreliable.numpy()
        for which, color, label in ((~flagged, BLUE, "passes checks"), (flagged, RED, "flagged")):
            if which.any():
                ax.errorbar(here[which, 0], error[which], 2 * found.se[which], fmt="o" if color == BLUE else "X", ms=5,
                            color=color, lw=1, capsize=2, label=kind + label)  # fmt: skip
        ax.set_ylim(*((-0.25, 0.25) if float(error.abs().max()) < 0.2 else (-2.5, 1.2)))
        ax.figure.legend(loc="outside lower center", ncols=2, fontsize=8, columnspacing=1)
        write(ax.figure, f"estimator_{name}")
    draw_nuts(vae)
    draw_exact()


def draw_nuts(vae: VAE) -> None:
    """Draw the posterior draws of NUTS over the true posterior."""
    x = torch.full((1, 1), X)
    from pyro.infer import MCMC, NUTS

    pyro.set_rng_seed(0)
    mcmc = MCMC(NUTS(vae.model), num_samples=150, warmup_steps=80, disable_progbar=True)
    mcmc.run(x)
    ax = plane("nuts: draws from p(z | x)")
    shade(ax, (log_joint(x) - exact(x).unsqueeze(1))[0])
    ax.plot(*mcmc.get_samples()["z"].reshape(-1, 2).T, ".", ms=4, color=BLUE)
    write(ax.figure, "estimator_nuts")


def draw_exact() -> None:
    """Draw the exact density of a linear-Gaussian model over data."""
    pyro.set_rng_seed(0)
    likelihood = partial(Gaussian, scale="fixed", init_scale=SIGMA)
    vae = VAE.build([2], 1, MLP([]), priors.StandardNormal, likelihood, guides.FullCovariance)
    x = vae.sample(150)
    found = marginal.Exact()(vae.model, vae.guide, GRID).log_px
    ax = plane("exact: log p(x), linear-Gaussian")
    ax.set(xlabel="x₁", ylabel="x₂")
    shade(ax, found)
    ax.plot(*x.T, ".", ms=4, color=ORANGE)
    write(ax.figure, "estimator_exact")


DRAW = {"guides": draw_guides, "priors": draw_priors, "estimators": draw_estimators, "commands": draw_commands}

if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for chosen in sys.argv[1:] or DRAW:
        started = time.perf_counter()
        with mpl.rc_context(STYLE):
            DRAW[chosen]()
        print(f"{chosen}: {time.perf_counter() - started:.0f} s, {time.process_time():.0f} s of work so far")
