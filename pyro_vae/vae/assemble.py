"""From families to the parts of a VAE."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.errors import MAX_WIDTH, BadInput, Incompatible, one_of, positive_int
from pyro_vae.guides import Diagonal
from pyro_vae.guides.guide import Guide
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.networks.network import Network
from pyro_vae.priors.prior import Prior
from pyro_vae.programs.eval_mode import eval_mode
from pyro_vae.vae.layer import Layer

CONDITIONINGS = ("none", "prior", "concat")
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


def assemble(
    data_shape: Sequence[int],
    latent_dim: int | Sequence[int],
    network: Network,
    prior: Callable[..., Prior],
    likelihood: Callable[..., Likelihood],
    guide: Callable[..., Guide],
    conditioning: str,
    num_classes: int | None,
) -> Parts:
    """Make the parts of a VAE from families; see `VAE.build`.

    Raises:
        BadInput: if an option is out of its range, does not fit the data or another option, or if a family does not
            define a member of its contract.
    """
    several = isinstance(latent_dim, Sequence) and not isinstance(latent_dim, str)
    dims: list[Any] = list(latent_dim) if several else [latent_dim]  # type: ignore[arg-type]
    if not dims:
        raise BadInput("latent_dim=[] has no layer: give at least one dimension, as in [100,50]")
    for dim in dims:
        positive_int("latent_dim", dim, high=MAX_WIDTH)
    concat = one_of("conditioning", conditioning, CONDITIONINGS) == "concat"
    require("network", network, Network)
    p_z = prior(dims[-1], data_shape=data_shape, num_classes=num_classes)
    require("prior", p_z, Prior)
    if conditioning == "prior" and not p_z.conditional:
        raise Incompatible("conditioning=prior needs a prior that depends on y", "use prior=class_conditional")
    if p_z.conditional or concat:
        _require_classes("conditioning=concat" if concat else f"prior={type(p_z).__name__}", num_classes)
    context_dim = num_classes if concat and num_classes else 0
    p_x = likelihood(data_shape)
    require("likelihood", p_x, Likelihood)
    decoder = network.decoder(dims[0], p_x.param_shape, context_dim)
    encoder = network.encoder(data_shape, context_dim)
    inputs = [torch.zeros(1, *data_shape), torch.zeros(1, context_dim)][: 2 if concat else 1]
    posterior = guide(_num_features(encoder, *inputs), dims[0])
    require("guide", posterior, Guide)
    layers = [_layer(network, guide, low, high) for low, high in pairwise(dims)]
    classes = num_classes if p_z.conditional or concat else None
    return Parts(dims, p_z, decoder, p_x, encoder, posterior, layers, classes, concat)


def require(axis: str, family: object, contract: type) -> None:
    """Check that a family defines its contract's abstract methods, and the attributes declared without a value.

    Raises:
        BadInput: otherwise, naming what is missing and the class to derive from.
    """
    methods = [name for name, member in vars(contract).items() if getattr(member, "__isabstractmethod__", False)]
    declared = [name for name in inspect.get_annotations(contract) if not hasattr(contract, name)]
    missing = [name for name in (*methods, *declared) if not _defines(family, name)]
    if missing or not isinstance(family, contract):
        problem = f"does not define {', '.join(missing)}" if missing else f"is not a {contract.__name__}"
        home = contract.__module__.rpartition(".")[0]
        raise BadInput(f"{axis}={type(family).__name__} {problem}: derive it from {home}.{contract.__name__}")


def _defines(family: object, name: str) -> bool:
    member = getattr(type(family), name, None) or getattr(family, name, None)
    is_defined = member is not None and member is not nn.Module.forward
    return is_defined and not getattr(member, "__isabstractmethod__", False)


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
    for layer in layers:
        guides.append(layer.above(guides[-1].sample()))
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
            f"{option} needs labels, which these data do not have: name them (data.label_key for an array), or set "
            "conditioning=none"
        )
    if num_classes > MAX_CLASSES:
        raise BadInput(
            f"labels up to {num_classes - 1} would be {num_classes} classes: number the labels that occur from 0 on, "
            "as np.unique(y, return_inverse=True)[1] does"
        )


def _layer(network: Network, guide: Callable[..., Guide], low: int, high: int) -> Layer:
    """Make z_{l+1} of dimension `high` above z_l of dimension `low`."""
    up, down = network.upper()
    encoder, decoder = up.encoder([low]), down.encoder([high])
    conditional = Diagonal(_num_features(decoder, torch.zeros(1, high)), low)
    return Layer(decoder, conditional, encoder, guide(_num_features(encoder, torch.zeros(1, low)), high))


@torch.no_grad()
def _num_features(network: nn.Module, *inputs: Tensor) -> int:
    with eval_mode(network):  # batch normalization of one row has no statistics
        return int(network(*inputs).shape[-1])


def _kind(distribution: Any) -> str:
    return "discrete" if isinstance(distribution.support, type(constraints.one_hot)) else "continuous"
