"""The variational autoencoder as two Pyro programs, and what its users do with it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.errors import BadInput, positive_int, true_false
from pyro_vae.guides.guide import Guide
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.networks.initialization import glorot_
from pyro_vae.networks.network import Network
from pyro_vae.networks.standardize import Standardize
from pyro_vae.priors.prior import Prior
from pyro_vae.programs.chunks import by_rows, require_room
from pyro_vae.programs.eval_mode import eval_mode
from pyro_vae.programs.random_state import seeded
from pyro_vae.programs.session import for_users
from pyro_vae.vae.assemble import assemble, require_same_kind
from pyro_vae.vae.inputs import Array, Labels, as_data, as_labels, as_observed, as_z
from pyro_vae.vae.layer import Layer


class VAE(nn.Module):
    """A generative model p(x, z) = p(z) p(x | z) and its amortized guide q(z | x), given labels y or not.

    `model` and `guide` are plain Pyro programs: pass them to `pyro.infer.SVI`, `Predictive`, `MCMC` and so on. With
    several stochastic layers p(z) = p(z_L) Π_l p(z_l | z_{l+1}), from the top down, and q(z | x) =
    q(z_1 | x) Π_l q(z_{l+1} | z_l), from the bottom up (Burda, Grosse & Salakhutdinov 2016, §2).

    Args:
        data_shape: shape of one datapoint.
        latent_dim: of z_1, …, z_L, from the bottom up.
        prior: module, `prior(y, posterior)` -> p(z | y); its families are in `priors/`.
        decoder: module, z `[..., latent_dim]` -> h.
        likelihood: module, `likelihood(h)` -> p(x | z); its families are in `likelihoods/`.
        encoder: module, x `[N, *data_shape]` -> features; it is given x standardized, where the likelihood is
            `unbounded`.
        posterior: module, `posterior(features, log_joint)` -> q(z | x); its families are in `guides/`.
        layers: stochastic layers above the first, from the bottom up.
        num_classes: of the labels y that the model is conditioned on; None: it is not.
        concat: whether encoder and decoder take y as well, one-hot.

    Source: Kingma & Welling (2014), Auto-Encoding Variational Bayes, https://arxiv.org/abs/1312.6114; with labels
    Sohn, Lee & Yan (2015), Learning structured output representation using deep conditional generative models.

    Example:
        >>> import torch
        >>> from pyro_vae.guides import Diagonal
        >>> from pyro_vae.likelihoods import Bernoulli
        >>> from pyro_vae.networks import MLP
        >>> from pyro_vae.priors import StandardNormal
        >>> vae = VAE.build([28, 28], 2, MLP([16]), StandardNormal, Bernoulli, Diagonal)
        >>> vae.sample(3).shape
        torch.Size([3, 28, 28])
    """

    def __init__(
        self,
        data_shape: Sequence[int],
        latent_dim: Sequence[int],
        prior: Prior,
        decoder: nn.Module,
        likelihood: Likelihood,
        encoder: nn.Module,
        posterior: Guide,
        layers: Sequence[Layer] = (),
        num_classes: int | None = None,
        concat: bool = False,
    ) -> None:
        super().__init__()
        self.data_shape, self.latent_dim = torch.Size(data_shape), tuple(latent_dim)
        self.prior, self.decoder, self.likelihood = prior, decoder, likelihood
        self.standardize = Standardize(data_shape) if likelihood.unbounded else nn.Identity()
        self.encoder, self.posterior = encoder, posterior
        self.layers = cast("Sequence[Layer]", nn.ModuleList(layers))
        self.sites = [f"z{i + 1}" for i in range(len(layers) + 1)] if layers else ["z"]
        self.num_classes, self.concat = num_classes, concat

    # The probabilistic program ------------------------------------------------------------------------

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """p(x, z | y) for x `[N, *data_shape]`, y `[N]`; sites `z` (or `z1`, `z2`, …) and `x`, plate `data`."""
        self._register("prior", "decoder", "likelihood", *self._of_layers("decoder", "conditional"))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample(self.sites[-1], self.p_z(y))
            for site, layer in zip(reversed(self.sites[:-1]), reversed(self.layers), strict=True):
                z = pyro.sample(site, layer.below(z))
            pyro.sample("x", self.p_x(z, y), obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(z | x, y) for x `[N, *data_shape]`, y `[N]`; sites `z` (or `z1`, `z2`, …), plate `data`."""
        self._register("encoder", "posterior", *self._of_layers("encoder", "posterior"))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample(self.sites[0], self.q_z(x, y))
            for site, layer in zip(self.sites[1:], self.layers, strict=True):
                z = pyro.sample(site, layer.above(z))

    def p_z(self, y: Tensor | None = None) -> TorchDistributionMixin:
        """Return the prior p(z | y) of the top layer; most priors ignore y `[N]`."""
        of_x_alone = not (self.layers or self.concat or self.posterior.needs_log_joint)
        return self.prior(y, self.q_z if of_x_alone else None)

    def p_x(self, z: Tensor, y: Tensor | None = None) -> TorchDistributionMixin:
        """Return p(x | z, y) for z `[..., latent_dim]` of the first layer, y `[N]`."""
        return self.likelihood(self.decoder(z, *self._context(y)))

    def q_z(self, x: Tensor, y: Tensor | None = None) -> TorchDistributionMixin:
        """Return q(z | x, y) of the first layer for x `[N, *data_shape]`, y `[N]`."""
        features = self.encoder(self.standardize(x), *self._context(y))
        return self.posterior(features, None if self.layers else partial(self.log_joint, x, y))

    def log_joint(self, x: Tensor, y: Tensor | None, z: Tensor) -> Tensor:
        """Return log p(x, z | y) of one stochastic layer at z `[S, N, latent_dim]`: `[S, N]`, nats."""
        return self.p_z(y).log_prob(z) + self.p_x(z, y).log_prob(x)

    def _context(self, y: Tensor | None) -> tuple[Tensor, ...]:
        """Return what encoder and decoder get beside their input: y one-hot, or nothing."""
        if not self.concat:
            return ()
        if y is None:
            raise BadInput(f"this VAE is conditional: give y, labels from 0 to {(self.num_classes or 0) - 1}")
        return (nn.functional.one_hot(y, self.num_classes or -1).to(self._like.dtype),)

    def _register(self, *names: str) -> None:
        for name in names:
            pyro.module(name, self.get_submodule(name))

    def _of_layers(self, *names: str) -> list[str]:
        return [f"layers.{i}.{name}" for i in range(len(self.layers)) for name in names]

    # From families, and from data ---------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        data_shape: Sequence[int],
        latent_dim: int | Sequence[int],
        network: Network,
        prior: Callable[..., Prior],
        likelihood: Callable[..., Likelihood],
        guide: Callable[..., Guide],
        conditioning: str = "none",
        num_classes: int | None = None,
    ) -> VAE:
        """Build a VAE from families: `prior`, `likelihood` and `guide` are classes, or partials of classes.

        Args:
            data_shape: shape of one datapoint.
            latent_dim: of z, or of z_1, …, z_L from the bottom up.
            network: builds encoders and decoders.
            prior: of the top layer.
            likelihood: of the data.
            guide: of each layer.
            conditioning: `none`; `prior`, a prior that depends on y; `concat`, y into encoder and decoder as well.
            num_classes: of y, if the data have labels.

        Raises:
            BadInput: if an option is out of its range, or does not fit the data or another option.
        """
        parts = assemble(data_shape, latent_dim, network, prior, likelihood, guide, conditioning, num_classes)
        vae = cls(data_shape, **parts._asdict())
        if network.init != "torch":
            glorot_(vae, alike=network.init == "glorot_alike")
        # zeros may lie outside of the likelihood's support: only the kinds of distributions matter
        with torch.no_grad(), pyro.validation_enabled(False), eval_mode(vae):
            y = None if vae.num_classes is None else torch.zeros(1, dtype=torch.long)
            require_same_kind(vae.q_z(torch.zeros(1, *data_shape), y), vae.p_z(y), parts)
        return vae

    def initialize(self, x: Tensor) -> None:
        """Take the starting values of prior, likelihood and the encoder's input from data x `[N, *data_shape]`."""
        self.prior.initialize_from(x)
        self.likelihood.initialize_from(x)
        if isinstance(self.standardize, Standardize):
            self.standardize.set(*self.likelihood.location_and_spread(x))

    def taken_labels(self, y: Tensor | None) -> Tensor | None:
        """Return the labels y of a data set if this VAE depends on labels, else None."""
        return None if self.num_classes is None else y

    # For users ----------------------------------------------------------------------------------------

    # These methods take as many rows at a time as fit into memory, and do not depend on the caller's session.

    @for_users
    def encode(self, x: Array, *, y: Labels = None) -> Tensor:
        """Embedding of x `[N, *data_shape]`, bytes or floats: the mean of q(z | x), `[N, latent_dim]`.

        With several layers that of z_1. A guide that does not know its mean takes that of 100 draws, the same at every
        call. The whole distribution is `vae.q_z(x)`.
        """
        x = self._data(x)
        return by_rows(self._embed, x, self._labels(y, len(x), self.concat))

    @for_users
    def decode(self, z: Array, *, y: Labels = None) -> Tensor:
        """The mean of p(x | z) for z `[..., latent_dim]`: `[..., *data_shape]`.

        The whole distribution is `vae.p_x(z)`.
        """
        z = as_z(z, self.latent_dim[0], self._like)
        leading = z.shape[:-1]
        labels = self._labels(y, leading[-1] if leading else 1, self.concat)
        labels = None if labels is None else labels.expand(leading or [1]).flatten()
        require_room(leading.numel() * self.data_shape.numel(), z, f"the mean of z {list(z.shape)} takes")
        return by_rows(self._mean, z.reshape(-1, z.shape[-1]), labels).reshape(leading + self.data_shape)

    @for_users
    def reconstruct(self, x: Array, *, y: Labels = None) -> Tensor:
        """The mean of p(x | z) at the embedding z of x: `[N, *data_shape]` -> `[N, *data_shape]`."""
        return self.decode(self.encode(x, y=y), y=y)

    @for_users
    def sample(self, n: int, *, y: Labels = None, mean: bool = False) -> Tensor:
        """`n` draws x ~ p(x | z), z ~ p(z): `[n, *data_shape]`; with `mean` the means of p(x | z) instead.

        Args:
            n: number of draws.
            y: of a conditional VAE the label to draw, or `n` of them.
            mean: means of p(x | z) instead of draws.

        Raises:
            BadInput: if n is not a positive integer, the draws do not fit into memory, or y is missing, superfluous
                or no label.
        """
        true_false("mean", mean)
        self._require_room("n", n, self.data_shape.numel())
        z = self.sample_z(n, y=y)
        return by_rows(self._mean if mean else self._draw, z, self._labels(y, len(z), self.concat))

    @for_users
    def sample_z(self, n: int, *, y: Labels = None) -> Tensor:
        """`n` draws z ~ p(z), of the first of several layers: `[n, latent_dim]`; arguments as for `sample`."""
        self._require_room("n", n, self.latent_dim[0])
        labels = self._labels(y, n, self.num_classes is not None)
        return by_rows(self._draw_z, torch.empty(n, 0), labels)

    @for_users
    def log_prob(self, x: Array, num_samples: int = 1000, *, y: Labels = None) -> Tensor:
        """log p(x), or log p(x | y), in nats per datapoint by importance sampling from the guide: `[N]`, float64.

        `pyro_vae.marginal.Importance` gives standard errors and effective sample sizes with it. Warns if more than 1 %
        of the estimates are unreliable (`LogEvidence.unreliable`), or if x is hardly what the likelihood is made for.

        Raises:
            BadInput: if x is nothing that the likelihood can give, or num_samples is not a positive integer.
        """
        from pyro_vae.marginal import Importance  # estimators stand above the VAE
        from pyro_vae.marginal.evidence import doubt
        from pyro_vae.marginal.pareto import FEW
        from pyro_vae.marginal.summary import TOLERATED

        x = self._data(x)
        positive_int("num_samples", num_samples)
        labels = self._labels(y, len(x), self.num_classes is not None)
        if warning := self.likelihood.check(x):
            warnings.warn(warning, stacklevel=3)
        evidence = Importance(num_samples=num_samples)(self.model, self.guide, x, labels)
        given = "" if labels is None else ", y"
        if (share := evidence.unreliable.double().mean().item()) > TOLERATED:
            more = "raise num_samples, or " if evidence.num_samples < FEW else ""
            warnings.warn(
                f"{share:.0%} of these log p(x) are unreliable ({evidence.criterion}), "
                f"{doubt(evidence.num_samples, evidence.k_threshold)}: {more}take "
                f"pyro_vae.marginal.Refined()(vae.model, vae.guide, x{given}).log_px, x a tensor; for discrete latents "
                "raise num_samples",
                stacklevel=3,
            )
        return evidence.log_px

    @for_users
    def impute(
        self,
        x: Array,
        mask: Array | None = None,
        *,
        y: Labels = None,
        num_samples: int = 10,
        num_steps: int = 100,
        mean: bool = False,
    ) -> Tensor:
        """Draws of the missing values of x given the others: `[num_samples, N, *data_shape]`.

        Their mean over the first dimension is the best guess in squared error, their spread says how sure it is.

        Args:
            x: data `[N, *data_shape]`, NaN or anything where values are missing.
            mask: True where x is observed, False where it is missing, `[N, *data_shape]` or of a shape that
                broadcasts to that; None: what is NaN is missing.
            y: labels of a conditional VAE.
            num_samples: draws, each from a Markov chain of its own.
            num_steps: length of the chains (`imputation.impute`).
            mean: means of p(x_mis | z) instead of draws.

        Raises:
            BadInput: if shapes or numbers are out of their range, or an observed value is NaN, or nothing that the
                likelihood can give.
            NoEvidence: if the guide is a point.
        """
        from pyro_vae.analysis.imputation import impute

        x = as_data(x, self.data_shape, self._like, incomplete=True)
        observed = as_observed(mask, x)
        if observed.any() and (warning := self.likelihood.check(x[observed])):
            warnings.warn(warning, stacklevel=3)
        labels = self._labels(y, len(x), self.num_classes is not None)
        return impute(
            self.model, self.guide, x, observed, labels, num_samples=num_samples, num_steps=num_steps, mean=mean
        )

    # What these methods do with some of the rows

    def _embed(self, x: Tensor, y: Tensor | None) -> Tensor:
        q = self.q_z(x, y)
        try:
            mean: Tensor = q.mean
        except NotImplementedError:
            with seeded(0, x):
                mean = q.sample((100,)).mean(0)
        return mean

    def _mean(self, z: Tensor, y: Tensor | None) -> Tensor:
        return self.p_x(z, y).mean

    def _draw(self, z: Tensor, y: Tensor | None) -> Tensor:
        return self.p_x(z, y).sample()

    def _draw_z(self, blank: Tensor, y: Tensor | None) -> Tensor:
        """One draw for each row of `blank`."""
        z: Tensor = self.p_z(y).expand([len(blank)]).sample()
        for layer in reversed(self.layers):
            z = layer.below(z).sample()
        return z

    def _require_room(self, name: str, n: int, size: int) -> None:
        """Refuse n draws of `size` numbers each that do not fit into memory."""
        require_room(positive_int(name, n) * size, self._like, f"{name}={n} takes")

    def _data(self, x: Array) -> Tensor:
        """x as data `[N, *data_shape]` that the likelihood can give."""
        x = as_data(x, self.data_shape, self._like)
        self.likelihood.check(x)  # raises; its warnings are about log p(x)
        return x

    def _labels(self, y: Labels, n: int, needed: bool) -> Tensor | None:
        """y as labels `[n]`, if they are needed."""
        return None if y is None and not needed else as_labels(y, n, self.num_classes, self._like.device)

    @property
    def _like(self) -> Tensor:
        """A tensor of the dtype and on the device of this VAE."""
        return next(self.parameters())
