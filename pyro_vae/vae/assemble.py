"""From families to the parts of a VAE."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from pyro_vae.errors import MAX_WIDTH, BadInput, one_of, positive_int
from pyro_vae.guides import Diagonal
from pyro_vae.programs.eval_mode import eval_mode
from pyro_vae.vae.layer import Layer

CONDITIONINGS = ("none", "prior", "concat")
MAX_CLASSES = 100_000
"""Each class is an input of the networks, or has its own mean: larger labels are probably identifiers."""


class Parts(NamedTuple):
    """Arguments of `VAE`, but for the shape of its data."""

    latent_dim: list[int]
    prior: nn.Module
    decoder: nn.Module
    likelihood: nn.Module
    encoder: nn.Module
    posterior: nn.Module
    layers: list[Layer]
    num_classes: int | None
    concat: bool


def assemble(
    data_shape: Sequence[int],
    latent_dim: int | Sequence[int],
    network: Any,
    prior: Any,
    likelihood: Any,
    guide: Any,
    conditioning: str = "none",
    num_classes: int | None = None,
) -> Parts:
    """Make the parts of a VAE from families; see `VAE.build`.

    Raises:
        BadInput: if an option is out of its range, does not fit the data, or does not fit another.
    """
    several = isinstance(latent_dim, Sequence) and not isinstance(latent_dim, str)
    dims: list[Any] = list(latent_dim) if several else [latent_dim]  # type: ignore[arg-type]
    if not dims:
        raise BadInput("latent_dim=[] has no layer: give the dimension of one at least, as in [100,50]")
    for dim in dims:
        positive_int("latent_dim", dim, high=MAX_WIDTH)
    concat = one_of("conditioning", conditioning, CONDITIONINGS) == "concat"
    p_z = prior(dims[-1], data_shape=data_shape, num_classes=num_classes)
    conditional = getattr(p_z, "conditional", False)
    if conditioning == "prior" and not conditional:
        raise BadInput("conditioning=prior needs a prior that depends on y: take prior=class_conditional")
    if (conditional or concat) and num_classes is None:
        raise BadInput(
            f"{'conditioning=concat' if concat else 'prior=class_conditional'} needs labels, which these data do "
            "not have: name them (data.label_key for an array), or take conditioning=none"
        )
    if (conditional or concat) and num_classes and num_classes > MAX_CLASSES:
        raise BadInput(
            f"labels up to {num_classes - 1} would be {num_classes} classes: number those there are from 0 on, "
            "as np.unique(y, return_inverse=True)[1] does"
        )
    context_dim = num_classes if concat and num_classes else 0
    p_x = likelihood(data_shape)
    decoder = network.decoder(dims[0], p_x.param_shape, context_dim)
    encoder = network.encoder(data_shape, context_dim)
    inputs = [torch.zeros(1, *data_shape), torch.zeros(1, context_dim)][: 2 if concat else 1]
    posterior = guide(_num_features(encoder, *inputs), dims[0])
    layers = [_layer(network, guide, low, high) for low, high in pairwise(dims)]
    classes = num_classes if conditional or concat else None
    return Parts(dims, p_z, decoder, p_x, encoder, posterior, layers, classes, concat)


def require_same_kind(priors: Sequence[Any], guides: Sequence[Any], prior: str, guide: str) -> None:
    """Check that each guide draws where its prior has mass, both being discrete or both continuous.

    Args:
        priors: p(z_l | z_{l+1}) of each layer from the bottom up, and p(z_L).
        guides: q(z_1 | x) and q(z_{l+1} | z_l) of each.
        prior: name of the prior's family, for the message.
        guide: name of the guide's.

    Raises:
        BadInput: if one is discrete and the other continuous.
    """
    for p, q in zip(priors, guides, strict=True):
        if _is_discrete(p) != _is_discrete(q):
            raise BadInput(
                f"the prior {prior} (between layers a Gaussian) is {_kind(p)}, the guide {guide} {_kind(q)}: "
                "prior=categorical goes with guide=categorical or enumerated, every other prior with every other guide"
            )


def _layer(network: Any, guide: Any, low: int, high: int) -> Layer:
    """z_{l+1} of dimension `high` above z_l of dimension `low`."""
    up, down = network.upper()
    encoder, decoder = up.encoder([low]), down.encoder([high])
    conditional = Diagonal(_num_features(decoder, torch.zeros(1, high)), low)
    return Layer(decoder, conditional, encoder, guide(_num_features(encoder, torch.zeros(1, low)), high))


@torch.no_grad()
def _num_features(network: nn.Module, *inputs: Tensor) -> int:
    with eval_mode(network):  # of one row there are no statistics
        return int(network(*inputs).shape[-1])


def _is_discrete(distribution: Any) -> bool:
    return isinstance(distribution.support, type(constraints.one_hot))


def _kind(distribution: Any) -> str:
    return "discrete" if _is_discrete(distribution) else "continuous"
