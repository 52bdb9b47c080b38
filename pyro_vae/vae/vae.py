"""The variational autoencoder as two Pyro programs; `methods` has what its users call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.data.schema import Column
from pyro_vae.errors import MAX_INT, BadInput, positive_ints
from pyro_vae.errors.own_code import own_code
from pyro_vae.guides.guide import Guide
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.missingness import Missingness
from pyro_vae.networks.initialization import glorot_
from pyro_vae.networks.network import Network
from pyro_vae.networks.standardize import Standardize
from pyro_vae.priors.prior import Prior
from pyro_vae.programs.eval_mode import eval_mode
from pyro_vae.programs.missing import X_MIS, dependent_shape, observe, typical
from pyro_vae.vae.assemble import assemble, encoder_input, make_missingness, require_mask_model, require_same_kind
from pyro_vae.vae.context import context_of
from pyro_vae.vae.contract import require_decoder, require_distribution
from pyro_vae.vae.layer import Layer
from pyro_vae.vae.modules import WithMask
from pyro_vae.vae.scoring import Scoring


class VAE(Scoring):
    """A generative model p(x, z) = p(z) p(x | z) and its amortized guide q(z | x), optionally given y.

    `model` and `guide` are plain Pyro programs: pass them to `pyro.infer.SVI`, `Predictive`, `MCMC` and so on. With
    several stochastic layers p(z) = p(z_L) Π_l p(z_l | z_{l+1}), from the top down, and q(z | x) =
    q(z_1 | x) Π_l q(z_{l+1} | z_l), from the bottom up (Burda, Grosse & Salakhutdinov 2016, §2).

    Args:
        data_shape: shape of one datapoint.
        latent_dim: dimensions of z_1, …, z_L, from the bottom up.
        prior: `prior(y, posterior)` -> p(z | y).
        decoder: z `[..., latent_dim]` -> h.
        likelihood: `likelihood(h)` -> p(x | z).
        encoder: x `[N, *data_shape]` -> features; x is standardized if the likelihood is `unbounded`.
        posterior: `posterior(features, log_joint)` -> q(z | x).
        layers: stochastic layers above the first, from the bottom up.
        num_classes: number of classes of y; None if the model does not depend on class labels.
        concat: whether y, encoded by `context`, is an input of encoder and decoder.
        missing: whether entries of x may be missing, which are NaN. The likelihood is that of the observed entries, and
            the encoder's input is `WithMask`.
        covariates: columns of y `[N, M]`, in place of class labels `[N]`.
        missingness: p(mask | x), if entries are not missing at random; needs `missing`. Then log p(x) is log p(x_obs,
            mask), and both programs have a latent site `x_mis`, draws of p(x | z) that replace the missing entries;
            where x is observed, they have no effect.

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

    fill: Tensor
    """Values `[*data_shape]` in the support, which replace missing entries where the log-density is masked."""

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
        missing: bool = False,
        covariates: Sequence[Column] = (),
        missingness: Missingness | None = None,
    ) -> None:
        super().__init__()
        self.data_shape, self.latent_dim = torch.Size(data_shape), tuple(latent_dim)
        self.prior, self.decoder, self.likelihood = prior, decoder, likelihood
        self.standardize = encoder_input(likelihood, data_shape, missing)
        self.encoder, self.posterior = encoder, posterior
        self.layers = cast("Sequence[Layer]", nn.ModuleList(layers))
        self.sites = [f"z{i + 1}" for i in range(len(layers) + 1)] if layers else ["z"]
        self.num_classes, self.concat, self.missing = num_classes, concat, missing
        self.context = context_of(num_classes, covariates)
        self.missingness = missingness
        if missing:  # until `initialize` sets them
            self.register_buffer("fill", torch.full(self.data_shape, 0.0 if likelihood.discrete else 0.5))

    # The probabilistic program ------------------------------------------------------------------------

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """p(x, z | y) for x `[N, *data_shape]` and its y; sites `z` (or `z1`, `z2`, …) and `x`, plate `data`.

        With a missingness model, p(x_obs, mask, x_mis, z | y), with the sites `x_mis` and `mask` as well.
        """
        mechanism = [] if self.missingness is None else ["missingness"]
        self._register("prior", "decoder", "likelihood", *mechanism, *self._of_layers("decoder", "conditional"))
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample(self.sites[-1], self.p_z(y))
            for site, layer in zip(reversed(self.sites[:-1]), reversed(self.layers), strict=True):
                z = pyro.sample(site, layer.below(z))
            every = self.p_x(z, y)
            p_x, known = self._observe(every, x)
            pyro.sample("x", p_x, obs=known)
            if self.missingness is not None:
                complete = torch.where(x.isnan(), pyro.sample(X_MIS, every), known)
                pyro.sample("mask", self.missingness(complete), obs=(~x.isnan()).to(known.dtype))

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(z | x, y) for x `[N, *data_shape]` and its y; sites `z` (or `z1`, `z2`, …), plate `data`."""
        self._register("encoder", "posterior", *self._of_layers("encoder", "posterior"))
        with pyro.plate("data", len(x), dim=-1):
            first = z = pyro.sample(self.sites[0], self.q_z(x, y))
            for site, layer in zip(self.sites[1:], self.layers, strict=True):
                z = pyro.sample(site, layer.above(z))
            if self.missingness is not None:
                pyro.sample(X_MIS, self.p_x(first, y))

    def p_z(self, y: Tensor | None = None) -> TorchDistributionMixin:
        """Return the prior p(z | y) of the top layer; most priors ignore y."""
        of_x_alone = not (self.layers or self.concat or self.posterior.needs_log_joint)
        given = self.context.for_prior(y, self._like.dtype) if self.prior.conditional and self.context else y
        return self.prior(given, self.q_z if of_x_alone else None)

    def p_x(self, z: Tensor, y: Tensor | None = None) -> TorchDistributionMixin:
        """Return p(x | z, y) for z `[..., latent_dim]` of the first layer, and y."""
        return self.likelihood(self.decoder(z, *self._context(y)))

    def q_z(self, x: Tensor, y: Tensor | None = None) -> TorchDistributionMixin:
        """Return q(z | x, y) of the first layer for x `[N, *data_shape]` and its y."""
        features = self.encoder(self.standardize(x), *self._context(y))
        return self.posterior(features, None if self.layers else partial(self.log_joint, x, y))

    def log_joint(self, x: Tensor, y: Tensor | None, z: Tensor) -> Tensor:
        """Return log p(x, z | y) of one stochastic layer at z `[S, N, latent_dim]`: `[S, N]`, nats."""
        p_x, x = self._observe(self.p_x(z, y), x)
        return self.p_z(y).log_prob(z) + p_x.log_prob(x)

    def _observe(self, p_x: TorchDistributionMixin, x: Tensor) -> tuple[TorchDistributionMixin, Tensor]:
        """Return a distribution of the entries of x that are not missing, and x without NaN."""
        return observe(p_x, x, self.fill) if self.missing else (p_x, x)

    def _context(self, y: Tensor | None) -> tuple[Tensor, ...]:
        """Return what encoder and decoder get beside their input: y encoded, or nothing."""
        context = self._of_networks
        return () if context is None else (context(y, self._like.dtype),)

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
        missing: bool = False,
        covariates: Sequence[Column] = (),
        missingness: Callable[..., Missingness] | None = None,
    ) -> VAE:
        """Build a VAE from families: `prior`, `likelihood` and `guide` are classes, or partials of classes.

        Args:
            data_shape: shape of one datapoint.
            latent_dim: of z, or of z_1, …, z_L from the bottom up.
            network: builds encoders and decoders.
            prior: of the top layer.
            likelihood: of the data.
            guide: of each layer.
            conditioning: `none`; `prior`, a prior that depends on y; `concat`, y into encoder and decoder as well;
                `semi_supervised`, for `SemiSupervisedVAE.build`.
            num_classes: of y, if the data have class labels.
            missing: whether entries of x may be missing (NaN).
            covariates: columns of y, if the data have covariates.
            missingness: of entries that are not missing at random; needs `missing`.

        Raises:
            BadInput: if an option is out of its range, or does not fit the data or another option.
        """
        if not positive_ints("data_shape", data_shape, MAX_INT):
            raise BadInput("data_shape=[] must have at least one dimension")
        if cls is VAE and conditioning == "semi_supervised":
            raise BadInput(f"conditioning={conditioning} makes another class: use SemiSupervisedVAE.build(...)")
        parts = assemble(
            data_shape, latent_dim, network, prior, likelihood, guide, conditioning, num_classes, missing, covariates
        )
        of_mask = None if missingness is None else make_missingness(missingness, data_shape, missing)
        vae = cls(data_shape, **parts._asdict(), missing=missing, missingness=of_mask)
        for parameter in vae.parameters():  # Pyro's store would keep a contiguous copy, and that would be trained
            parameter.data = parameter.data.contiguous()
        if network.init != "torch":
            glorot_(vae, alike=network.init == "glorot_alike")
        # zeros may lie outside of the likelihood's support: only the kinds of distributions matter
        with torch.no_grad(), pyro.validation_enabled(False), eval_mode(vae):
            x, z = torch.zeros(1, *data_shape), torch.zeros(2, 1, vae.latent_dim[0])
            y = None if vae.context is None else vae.context.example(x)
            require_decoder(network, vae.decoder, vae.likelihood.param_shape, z, *vae._context(y))
            with own_code("forward", likelihood=vae.likelihood):
                p_x = vae.p_x(z[0], y)
            require_distribution("likelihood", vae.likelihood, p_x, True, data_shape)
            if missing and (shape := dependent_shape(p_x)):
                raise BadInput(
                    f"likelihood={type(vae.likelihood).__name__} does not factorize over the entries of x (entries of "
                    f"shape {list(shape)} depend on each other given z), so missing ones cannot be left out: use "
                    "likelihood=gaussian or another one that factorizes, or complete data"
                )
            if of_mask is not None:
                require_mask_model(of_mask, vae.likelihood, p_x, x)
            with own_code("forward", prior=vae.prior, guide=vae.posterior):
                q, p = vae.q_z(x, y), vae.p_z(y)
            require_distribution("guide", vae.posterior, q, True, vae.latent_dim[:1])
            require_distribution("prior", vae.prior, p, False, vae.latent_dim[-1:])
            require_same_kind(q, p, parts)
        return vae

    def initialize(self, x: Tensor, y: Tensor | None = None) -> None:
        """Take the starting values of prior, likelihood and the encoder's input from data x `[N, *data_shape]`.

        Covariates and `SemiSupervisedVAE` also need the training data's y.

        Raises:
            BadInput: if an entry is missing in all datapoints.
        """
        if self.missing:
            self.fill.copy_(typical(x, self.column_names))
        if self.context is not None and y is not None:
            self.context.initialize_from(y)
        with own_code("initialize_from", prior=self.prior):
            self.prior.initialize_from(torch.where(x.isnan(), self.fill, x) if self.missing else x)
        with own_code("initialize_from or location_and_spread", likelihood=self.likelihood):
            self.likelihood.initialize_from(x)
            inner = self.standardize.inner if isinstance(self.standardize, WithMask) else self.standardize
            if isinstance(inner, Standardize):
                inner.set(*self.likelihood.location_and_spread(x))
        if self.missingness is not None:
            with own_code("initialize_from", missingness=self.missingness):
                self.missingness.initialize_from(x)

    @property
    def families(self) -> dict[str, object]:
        """Prior, likelihood, guide and missingness by their axes, for messages."""
        mechanism = {} if self.missingness is None else {"missingness": self.missingness}
        return {"prior": self.prior, "likelihood": self.likelihood, "guide": self.posterior, **mechanism}

    def taken_labels(self, y: Tensor | None) -> Tensor | None:
        """Return the y of a data set if this VAE needs it, else None.

        Raises:
            BadInput: if it needs labels and some are missing.
        """
        if not self.needs_labels:
            return None
        if self.num_classes is not None and y is not None and (missing := int((y < 0).sum())):
            raise BadInput(
                f"{missing} of {len(y)} labels are missing (-1), which only conditioning=semi_supervised allows: use "
                "it, or leave these datapoints out"
            )
        return y
