"""Encoder and decoder as plain modules, to export."""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import torch
from torch import Tensor, nn

from pyro_vae.errors import BadInput
from pyro_vae.guides.guide import Guide
from pyro_vae.vae.context import Context


class Encoder(nn.Module):
    """x `[N, *data_shape]` -> mean and standard deviation of q(z | x), each `[N, latent_dim]`.

    Args:
        standardize: module, x -> x.
        encoder: module, x -> features.
        posterior: module, features -> q(z | x).
        context: encodes y for `encoder`; None: it has no such input.
    """

    def __init__(
        self, standardize: nn.Module, encoder: nn.Module, posterior: Guide, context: Context | None = None
    ) -> None:
        super().__init__()
        self.standardize, self.encoder, self.posterior = standardize, encoder, posterior
        self.context = context

    def forward(self, x: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation for x and, with `conditioning="concat"`, y."""
        features = self.encoder(self.standardize(x), *_second_input(y, self.context, x.dtype))
        with pyro.validation_enabled(False):  # data-dependent checks cannot be exported
            return self.posterior.moments(features)

    @torch.no_grad()
    def check(self, x: Tensor) -> None:
        """Check on one datapoint x `[1, *data_shape]` that q(z | x) has moments in closed form.

        Raises:
            BadInput: if it does not.
        """
        guide = type(self.posterior).__name__
        if self.posterior.needs_log_joint:
            raise BadInput(f"the guide {guide} evaluates the decoder, which an encoder alone cannot do")
        try:
            self(x, None if self.context is None else self.context.example(x))
        except NotImplementedError as error:
            raise BadInput(f"the guide {guide} has no mean in closed form: use vae.encode, which draws") from error


class WithMask(nn.Module):
    """Appends to the encoder's input, whose missing entries become 0, the mask: 1 where x is observed, 0 where NaN.

    Mattei & Frellsen (2019), MIWAE, https://arxiv.org/abs/1812.02633, §2.3. A vector or the row of a table gets an
    entry for each of x, an image `[H, W]` or `[C, H, W]` twice the channels.

    Args:
        inner: module, x -> the encoder's input of complete data; NaN entries stay NaN.
        data_shape: shape of one datapoint.
    """

    def __init__(self, inner: nn.Module, data_shape: Sequence[int]) -> None:
        super().__init__()
        self.inner, self.event_dim = inner, len(data_shape)

    def forward(self, x: Tensor) -> Tensor:
        """Return the input for x `[..., *data_shape]`, where NaN is missing."""
        observed = ~x.isnan()
        h = self.inner(x)
        parts = h.nan_to_num(0.0), observed.to(h.dtype)
        return torch.stack(parts, -3) if self.event_dim == 2 else torch.cat(parts, -self.event_dim)


class Decoder(nn.Module):
    """z `[N, latent_dim]` -> mean of p(x | z), `[N, *data_shape]`.

    Args:
        decoder: module, z -> h.
        likelihood: module, h -> p(x | z).
        context: as of `Encoder`.
    """

    def __init__(self, decoder: nn.Module, likelihood: nn.Module, context: Context | None = None) -> None:
        super().__init__()
        self.decoder, self.likelihood, self.context = decoder, likelihood, context

    def forward(self, z: Tensor, y: Tensor | None = None) -> Tensor:
        """Return the mean for z and, with `conditioning="concat"`, y."""
        h = self.decoder(z, *_second_input(y, self.context, z.dtype))
        with pyro.validation_enabled(False):
            mean: Tensor = self.likelihood(h).mean
        return mean


def _second_input(y: Tensor | None, context: Context | None, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Encode y, but refuse one that would be ignored."""
    if context is not None:
        return (context(y, dtype),)
    if y is not None:
        raise BadInput('this module has no input y, which only conditioning="concat" gives it: leave y out')
    return ()
