"""From families to the parts of a VAE."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.data.schema import Column
from pyro_vae.errors import MAX_WIDTH, BadInput, Incompatible, one_of, positive_int, quoted
from pyro_vae.errors.own_code import own_code
from pyro_vae.guides import Diagonal
from pyro_vae.guides.guide import Guide
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.missingness import Missingness
from pyro_vae.networks.initialization import INITS
from pyro_vae.networks.network import Network
from pyro_vae.priors.prior import Prior
from pyro_vae.programs.density import has_atoms
from pyro_vae.programs.eval_mode import eval_mode
from pyro_vae.vae.context import context_of
from pyro_vae.vae.contract import made, require, require_distribution, require_returned
from pyro_vae.vae.layer import Layer
from pyro_vae.vae.modules import WithMask

CONDITIONINGS = ("none", "prior", "concat", "semi_supervised")
MAX_CLASSES = 100_000
"""Limit of num_classes: larger labels are probably identifiers."""


class Parts(NamedTuple):
    """Arguments of `VAE`, except for the shape of its data."""

    latent_dim: list[int]
    prior: Prior
    decoder: nn.Module
    likelihood: Likelihood
    encoder: nn.Module
    posterior: Guide
    layers: list[Layer]
    num_classes: int | None
    concat: bool
    covariates: Sequence[Column]


def assemble(
    data_shape: Sequence[int],
    latent_dim: int | Sequence[int],
    network: Network,
    prior: Callable[..., Prior],
    likelihood: Callable[..., Likelihood],
    guide: Callable[..., Guide],
    conditioning: str,
    num_classes: int | None,
    missing: bool = False,
    covariates: Sequence[Column] = (),
) -> Parts:
    """Make the parts of a VAE from families; see `VAE.build`.

    Raises:
        BadInput: if an option is out of its range, does not fit the data or another option, or if a family does not
            define a member of its contract.
    """
    if isinstance(latent_dim, str):
        raise BadInput(f"latent_dim={quoted(latent_dim)} must be an integer, or a list of integers, as in [100,50]")
    several = isinstance(latent_dim, Sequence)
    dims: list[Any] = list(latent_dim) if several else [latent_dim]  # type: ignore[arg-type]
    if not dims:
        raise BadInput("latent_dim=[] has no layer: give at least one dimension, as in [100,50]")
    for dim in dims:
        positive_int("latent_dim", dim, high=MAX_WIDTH)
    concat = one_of("conditioning", conditioning, CONDITIONINGS) in ("concat", "semi_supervised")
    if num_classes is not None:
        positive_int("num_classes", num_classes, high=2**63)  # `_require_classes` limits those that are used
    if covariates and conditioning == "semi_supervised":
        raise Incompatible(
            f"conditioning={conditioning} needs class labels y [N], not covariates",
            "give labels 0, 1, 2, … (in pandas, y=df[NAME].astype('category').cat.codes), or use conditioning=concat",
        )
    require("network", network, Network)
    one_of(f"network={type(network).__name__}: init", network.init, INITS)
    about_y: dict[str, Any] = {"num_classes": num_classes}
    if covariates:  # only then, as priors of users may not accept it; plain numbers, as Hydra passes no objects
        about_y["num_categories"] = [len(column.categories) for column in covariates]
    p_z = made("prior", prior, Prior, dims[-1], data_shape=data_shape, **about_y)
    if conditioning == "prior" and not p_z.conditional:
        raise Incompatible("conditioning=prior needs a prior that depends on y", "use prior=class_conditional")
    conditional = p_z.conditional or concat
    if conditional and not covariates:
        _require_classes(f"conditioning={conditioning}" if concat else f"prior={type(p_z).__name__}", num_classes)
    context = context_of(num_classes, covariates) if concat else None
    context_dim = 0 if context is None else context.width
    p_x = made("likelihood", likelihood, Likelihood, data_shape)
    decoder = _built(network, "decoder", dims[0], p_x.param_shape, context_dim)
    input_shape = encoder_input(p_x, data_shape, missing)(torch.zeros(1, *data_shape)).shape[1:]
    encoder = _built(network, "encoder", input_shape, context_dim)
    inputs = [torch.zeros(1, *input_shape), torch.zeros(1, context_dim)][: 2 if concat else 1]
    posterior = made("guide", guide, Guide, num_features(network, encoder, *inputs), dims[0])
    layers = [_layer(network, guide, low, high) for low, high in pairwise(dims)]
    of_y = (num_classes, concat, covariates) if conditional else (None, concat, ())
    return Parts(dims, p_z, decoder, p_x, encoder, posterior, layers, *of_y)


def encoder_input(likelihood: Likelihood, data_shape: Sequence[int], missing: bool) -> nn.Module:
    """Make the module x `[..., *data_shape]` -> the encoder's input, with a mask if entries may be missing."""
    inner = likelihood.encoder_input(data_shape)
    return WithMask(inner, data_shape) if missing else inner


def make_missingness(missingness: Callable[..., Missingness], data_shape: Sequence[int], missing: bool) -> Missingness:
    """Make the missingness model of a VAE.

    Raises:
        BadInput: if entries of the data cannot be missing, or it does not define a member of its contract.
    """
    made_one: Missingness = made("missingness", missingness, Missingness, data_shape)
    if not missing:
        raise BadInput(
            f"missingness={type(made_one).__name__} needs data with missing entries (NaN): leave it out, or set "
            "data.missing=true"
        )
    return made_one


def require_mask_model(
    missingness: Missingness, likelihood: Likelihood, p_x: TorchDistributionMixin, x: Tensor
) -> None:
    """Check what a missingness model returns for x `[1, *data_shape]`, and that entries of x can be latent.

    Raises:
        BadInput: if its distribution has other shapes, or p(x | z) cannot be drawn with a gradient, nor is discrete.
    """
    with own_code("forward", missingness=missingness):
        p_mask = missingness(x)
    require_distribution("missingness", missingness, p_mask, True, x.shape[1:])
    if not (p_x.has_rsample or has_atoms(p_x)):
        raise BadInput(
            f"missingness={type(missingness).__name__} needs draws of x with a gradient, which "
            f"likelihood={type(likelihood).__name__} does not have: use likelihood=gaussian, student_t or beta, or "
            "missingness=none"
        )


def require_same_kind(q: TorchDistributionMixin, p: TorchDistributionMixin, parts: Parts) -> None:
    """Check that each guide draws where its prior has mass, both being discrete or both continuous.

    Args:
        q: q(z_1 | x) of one datapoint.
        p: p(z_L).
        parts: of the VAE.

    Raises:
        Incompatible: if one is discrete and the other continuous.
    """
    layers, dims = parts.layers, parts.latent_dim
    prior, guide = type(parts.prior).__name__, type(parts.posterior).__name__
    guides = [q]
    for layer, dim in zip(layers, dims[1:], strict=True):
        guides.append(layer.above(guides[-1].sample()))
        require_distribution("guide", layer.posterior, guides[-1], True, [dim])
    priors = [*(layer.below(torch.zeros(1, dim)) for layer, dim in zip(layers, dims[1:], strict=True)), p]
    for of_prior, of_guide in zip(map(_kind, priors), map(_kind, guides), strict=True):
        if of_prior != of_guide:
            between = " (between layers a Gaussian)" if layers else ""
            raise Incompatible(
                f"the prior {prior}{between} is {of_prior}, the guide {guide} is {of_guide}",
                "combine prior=categorical with guide=categorical or enumerated and a single latent_dim, any other "
                "prior with any other guide",
            )


def _require_classes(option: str, num_classes: int | None) -> None:
    if num_classes is None:
        raise BadInput(
            f"{option} needs labels, which these data do not have: name them (data.label_key for an array, "
            "data.y for a table), or set conditioning=none"
        )
    if num_classes > MAX_CLASSES:
        raise BadInput(
            f"labels up to {num_classes - 1} would be {num_classes} classes: number the labels that occur from 0 on, "
            "as np.unique(y, return_inverse=True)[1] does"
        )


def _built(network: Network, method: str, *args: Any) -> nn.Module:
    """Call `network.encoder` or `network.decoder`."""
    with own_code(method, network=network):
        module: nn.Module = getattr(network, method)(*args)
    require_returned("network", network, method, module, nn.Module)
    return module


def _layer(network: Network, guide: Callable[..., Guide], low: int, high: int) -> Layer:
    """Make z_{l+1} of dimension `high` above z_l of dimension `low`."""
    with own_code("upper", network=network):
        up, down = network.upper()
    encoder, decoder = _built(up, "encoder", [low]), _built(down, "encoder", [high])
    conditional = Diagonal(num_features(down, decoder, torch.zeros(1, high)), low)
    return Layer(decoder, conditional, encoder, guide(num_features(up, encoder, torch.zeros(1, low)), high))


@torch.no_grad()
def num_features(network: Network, encoder: nn.Module, *inputs: Tensor) -> int:
    """Return the width of an encoder's output, given one row of each of its inputs."""
    with eval_mode(encoder):  # batch normalization of one row has no statistics
        with own_code("encoder(...) of x [1, *data_shape]", network=network):
            features = encoder(*inputs)
        require_returned("network", network, "encoder(...)(x)", features, Tensor)
        return int(features.shape[-1])


def _kind(distribution: Any) -> str:
    return "discrete" if isinstance(distribution.support, type(constraints.one_hot)) else "continuous"
