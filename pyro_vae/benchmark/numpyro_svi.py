"""Runs NumPyro's SVI as in its example, https://num.pyro.ai/en/stable/examples/vae.html."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import lax, random
from jax.example_libraries import stax
from numpyro.handlers import replay, seed, substitute
from numpyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceMeanField_ELBO
from numpyro.infer.util import log_density

from pyro_vae.benchmark.works import (
    BATCH,
    DECODER,
    ENCODER,
    IWAE_PARTICLES,
    LATENT_DIM,
    LEARNING_RATE,
    NUM_SAMPLES,
    PROGRAM_DECODER,
    PROGRAM_ENCODER,
    Layers,
    Setup,
    Timed,
)


def mlp(layers: Layers, activation: Any = stax.Tanh) -> Any:
    """Build linear layers with these inputs and outputs, with activations between them."""
    return stax.serial(*[layer for _, n in layers for layer in (stax.Dense(n), activation)][:-1])


TANH_ENCODER, TANH_DECODER = mlp(ENCODER), mlp(DECODER)


def model(x: Any, net: Any = TANH_DECODER) -> None:
    """Define p(x, z)."""
    decode = numpyro.module("decoder", net, (len(x), LATENT_DIM))
    with numpyro.plate("batch", len(x)):
        z = numpyro.sample("z", dist.Normal(0, 1).expand([LATENT_DIM]).to_event(1))
        numpyro.sample("obs", dist.Bernoulli(logits=decode(z)).to_event(1), obs=x)


def guide(x: Any, net: Any = TANH_ENCODER) -> None:
    """Define q(z | x)."""
    encode = numpyro.module("encoder", net, (len(x), x.shape[-1]))
    loc, log_scale = jnp.split(encode(x), 2, axis=-1)
    with numpyro.plate("batch", len(x)):
        numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))


def works() -> dict[str, Setup]:
    """Return the setups of all works."""

    def step(loss: Any, x: np.ndarray, model: Any = model, guide: Any = guide) -> Timed:
        svi, batch = SVI(model, guide, numpyro.optim.Adam(LEARNING_RATE), loss), jnp.asarray(x)
        state = svi.init(random.PRNGKey(0), batch)

        def steps_(state: Any, n: int) -> Any:
            return lax.fori_loop(0, n, lambda i, state: svi.update(state, batch)[0], state)

        steps = jax.jit(steps_)

        def run(n: int) -> None:
            nonlocal state
            state = jax.block_until_ready(steps(state, n))

        return Timed(run)

    def epoch(x: np.ndarray) -> Timed:
        svi, grey = SVI(model, guide, numpyro.optim.Adam(LEARNING_RATE), TraceMeanField_ELBO()), jnp.asarray(x)
        state, key, num_batches = svi.init(random.PRNGKey(0), grey[:BATCH]), random.PRNGKey(1), len(x) // BATCH

        def one_epoch_(state: Any, key: Any) -> Any:
            shuffling, binarizing = random.split(key)
            order = random.permutation(shuffling, len(grey)).reshape(num_batches, BATCH)

            def body(i: Any, carry: Any) -> Any:
                state, total = carry
                batch = random.bernoulli(random.fold_in(binarizing, i), grey[order[i]]).astype(grey.dtype)
                state, loss = svi.update(state, batch)
                return state, total + loss

            return lax.fori_loop(0, num_batches, body, (state, 0.0))

        one_epoch = jax.jit(one_epoch_)

        def run(n: int) -> None:
            nonlocal state, key
            for _ in range(n):
                key, now = random.split(key)
                state, total = one_epoch(state, now)
                float(total)

        return Timed(run, num_batches)

    def log_px(x: np.ndarray) -> Timed:
        svi, data = SVI(model, guide, numpyro.optim.Adam(LEARNING_RATE), TraceMeanField_ELBO()), jnp.asarray(x)
        params = svi.get_params(svi.init(random.PRNGKey(0), data))

        def log_weight(key: Any, x: Any) -> Any:
            log_q, draws = log_density(seed(guide, key), (x,), {}, params)
            log_p, _ = log_density(replay(substitute(model, params), draws), (x,), {}, {})
            return log_p - log_q

        def evidence_(key: Any) -> Any:
            def of_one(x_and_key: Any) -> Any:
                x, key = x_and_key
                log_w = jax.vmap(log_weight, (0, None))(random.split(key, NUM_SAMPLES), x[None])
                return jax.nn.logsumexp(log_w) - math.log(NUM_SAMPLES)

            return lax.map(of_one, (data, random.split(key, len(data))))

        evidence = jax.jit(evidence_)

        def run(n: int) -> None:
            for i in range(n):
                jax.block_until_ready(evidence(random.PRNGKey(i)))

        return Timed(run, len(x))

    return {
        "step_100": lambda x: step(TraceMeanField_ELBO(), x),
        "step_1000": lambda x: step(TraceMeanField_ELBO(), x),
        "iwae_50": lambda x: step(RenyiELBO(alpha=0, num_particles=IWAE_PARTICLES), x),
        "epoch": epoch,
        "log_px": log_px,
        "program": lambda x: step(
            Trace_ELBO(),
            x,
            partial(model, net=mlp(PROGRAM_DECODER, stax.Softplus)),
            partial(guide, net=mlp(PROGRAM_ENCODER, stax.Softplus)),
        ),
    }
