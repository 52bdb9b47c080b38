"""A VAE that learns classes from few labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyro_vae.data.schema import Column
from pyro_vae.data.sources import Data
from pyro_vae.errors import BadInput, Incompatible
from pyro_vae.likelihoods.likelihood import Likelihood
from pyro_vae.missingness import Missingness
from pyro_vae.networks.initialization import glorot_
from pyro_vae.networks.network import Network
from pyro_vae.priors.prior import Prior
from pyro_vae.programs.chunks import by_rows
from pyro_vae.programs.session import for_users
from pyro_vae.programs.trace import Program
from pyro_vae.vae.assemble import num_features
from pyro_vae.vae.inputs import Labels
from pyro_vae.vae.vae import VAE

NAME = "conditioning=semi_supervised"


class SemiSupervisedVAE(VAE):
    """p(x, y, z) = p(y) p(z) p(x | z, y) with the guide q(y | x) q(z | x, y), for data of which few have labels y.

    `model` and `guide` have the sites `y`, `z` and `x`; labels y `[N]` are −1 where the class is unknown. Pyro's
    `TraceEnum_ELBO` and `objectives.SemiSupervised` sum over the class. `programs` returns programs without the site
    `y`, for estimators of log p(x).

    Methods that are called without labels use those that `predict_class` finds most probable, except that `sample`
    draws them from p(y), and that `log_prob` and `evidence` estimate log p(x) = log Σ_y p(y) p(x | y). Without
    labels, `impute` draws y together with z, by `method="gibbs"` or `"importance"`. `decode` needs labels.

    Attributes:
        classifier: x -> logits of q(y | x), a network like the encoder.
        log_p_y: log p(y), `[num_classes]`: the frequencies of the training labels, which training leaves fixed.

    Source: Kingma, Rezende, Mohamed & Welling (2014), Semi-supervised learning with deep generative models,
    https://arxiv.org/abs/1406.5298, model M2.

    Example:
        >>> from pyro_vae.guides import Diagonal
        >>> from pyro_vae.likelihoods import Bernoulli
        >>> from pyro_vae.networks import MLP
        >>> from pyro_vae.priors import StandardNormal
        >>> vae = SemiSupervisedVAE.build([8], 2, MLP([16]), StandardNormal, Bernoulli, Diagonal, num_classes=3)
        >>> vae.predict_class(torch.zeros(5, 8)).shape
        torch.Size([5, 3])
    """

    num_classes: int
    classifier: nn.Module
    log_p_y: Tensor

    @classmethod
    def build(
        cls,
        data_shape: Sequence[int],
        latent_dim: int | Sequence[int],
        network: Network,
        prior: Callable[..., Prior],
        likelihood: Callable[..., Likelihood],
        guide: Callable[..., Any],
        conditioning: str = "semi_supervised",
        num_classes: int | None = None,
        missing: bool = False,
        covariates: Sequence[Column] = (),
        missingness: Callable[..., Missingness] | None = None,
    ) -> SemiSupervisedVAE:
        """Build it from families; arguments and errors are those of `VAE.build`."""
        if missingness is not None:
            raise BadInput(f"{NAME} has no missingness model: use missingness=none, or another conditioning")
        vae = super().build(
            data_shape, latent_dim, network, prior, likelihood, guide, conditioning, num_classes, missing, covariates
        )
        assert isinstance(vae, SemiSupervisedVAE)
        if vae.layers:
            raise Incompatible(f"{NAME} has one stochastic layer", "set latent_dim to a single number")
        if vae.prior.conditional:
            raise Incompatible(f"{NAME} needs a prior that does not depend on y", "use prior=standard_normal")
        if vae.posterior.needs_log_joint:
            raise Incompatible(f"{NAME} needs a guide that does not evaluate the model", "use guide=diagonal")
        x = vae.standardize(torch.zeros(1, *data_shape))
        encoder = network.encoder(x.shape[1:])
        vae.classifier = nn.Sequential(encoder, nn.Linear(num_features(network, encoder, x), vae.num_classes))
        if network.init != "torch":
            glorot_(vae.classifier, alike=network.init == "glorot_alike")
        vae.register_buffer("log_p_y", torch.full([vae.num_classes], 1 / vae.num_classes).log())
        return vae

    # The probabilistic program ------------------------------------------------------------------------

    def model(self, x: Tensor, y: Tensor | None = None) -> None:
        """p(x, z, y) for x `[N, *data_shape]`; sites `y`, `z`, `x`, and `label`, which observes the known y `[N]`."""
        self._register("prior", "decoder", "likelihood")
        with pyro.plate("data", len(x), dim=-1):
            p_y = dist.Categorical(logits=self.log_p_y)
            if y is not None:
                pyro.sample("label", p_y.mask(y >= 0), obs=y.clamp(min=0))
            y = pyro.sample("y", given(p_y, y), infer={"enumerate": "parallel"})
            z = pyro.sample("z", self.p_z())
            p_x, x = self._observe(self.p_x(z, y), x)
            pyro.sample("x", p_x, obs=x)

    def guide(self, x: Tensor, y: Tensor | None = None) -> None:
        """q(y | x) q(z | x, y); all mass of `y` is at the known labels, and `infer["classifier"]` is q(y | x)."""
        self._register("classifier", "encoder", "posterior")
        q_y = self.q_y(x)
        with pyro.plate("data", len(x), dim=-1):
            infer: Any = {"enumerate": "parallel", "classifier": q_y}
            y = pyro.sample("y", given(q_y, y), infer=infer)
            pyro.sample("z", self.q_z(x, y))

    def q_y(self, x: Tensor) -> dist.Categorical:
        """Return q(y | x) for x `[N, *data_shape]`, with batch_shape `[N]`."""
        return dist.Categorical(logits=self.classifier(self.standardize(x)))

    # The same programs without the site y -------------------------------------------------------------

    def programs(self, y: Tensor | None = None) -> tuple[Program, Program]:
        """Return the model and the guide to estimate log p(x) with, or, given labels y `[N]`, log p(x | y)."""
        return (self.summed_model, self.summed_guide) if y is None else (super().model, super().guide)

    def factorizing_programs(self, y: Tensor | None = None) -> tuple[Program, Program]:
        """Return the model and the guide to impute with; without labels y `[N]` they have the site `y`."""
        return (self.model, self.guide) if y is None else self.programs(y)

    def summed_model(self, x: Tensor) -> None:
        """p(x, z) = p(z) Σ_y p(y) p(x | z, y); sites `z` and `x`."""
        self._register("prior", "decoder", "likelihood")
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", self.p_z())
            of_classes, x = self._observe(self.p_x(z.unsqueeze(-2), self._every), x.unsqueeze(1))
            pyro.sample("x", _mixture(self.log_p_y, of_classes), obs=x.squeeze(1))

    def summed_guide(self, x: Tensor) -> None:
        """q(z | x) = Σ_y q(y | x) q(z | x, y); site `z`."""
        self._register("classifier", "encoder", "posterior")
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", _mixture(self.q_y(x).logits, self.q_z(x.unsqueeze(1), self._every)))

    @property
    def _every(self) -> Tensor:
        """All classes, `[num_classes]`."""
        return torch.arange(self.num_classes, device=self.log_p_y.device)

    @property
    def needs_labels(self) -> bool:
        """False: labels may be left out."""
        return False

    # Methods for users --------------------------------------------------------------------------------

    @for_users
    def predict_class(self, x: Data) -> Tensor:
        """Return the probabilities q(y | x) of the classes for x `[N, *data_shape]`: `[N, num_classes]`.

        x may be anything that `fit` accepts. `vae.predict_class(x).argmax(1)` are the most probable classes, `[N]`.

        Raises:
            BadInput: if x has another shape, or values that the likelihood rejects.
        """
        return torch.cat([by_rows(self._probs, data) for data, _, _ in self._parts(x, None, False)])

    @for_users
    def encode(self, x: Data, *, y: Labels = None) -> Tensor:
        """Embed x `[N, *data_shape]` as the mean of q(z | x, y): `[N, latent_dim]`."""
        return super().encode(x, y=self._predicted(x) if y is None else y)

    @for_users
    def reconstruct(self, x: Data, *, y: Labels = None) -> Tensor:
        """Return the mean of p(x | z, y) at the embedding z of x: `[N, *data_shape]` -> `[N, *data_shape]`."""
        return super().reconstruct(x, y=self._predicted(x) if y is None else y)

    @for_users
    def sample(self, n: int, *, y: Labels = None, mean: bool = False, as_frame: str | None = None) -> Any:
        """Draw n datapoints, y ~ p(y), z ~ p(z) and x ~ p(x | z, y): `[n, *data_shape]`; see `VAE.sample`."""
        self._require_room("n", n, self.data_shape.numel())
        drawn = dist.Categorical(logits=self.log_p_y).sample((n,)) if y is None else y
        return super().sample(n, y=drawn, mean=mean, as_frame=as_frame)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Reconstruct x `[N, *data_shape]`, with gradients; see `VAE.forward`."""
        return super().forward(x, self.q_y(x).logits.argmax(-1) if y is None else y)

    def _probs(self, x: Tensor) -> Tensor:
        return self.q_y(x).probs

    def _predicted(self, x: Data) -> Tensor:
        return self.predict_class(x).argmax(1)

    # From data ----------------------------------------------------------------------------------------

    def initialize(self, x: Tensor, y: Tensor | None = None) -> None:
        """Set starting values from data x `[N, *data_shape]`, and p(y) from their labels y `[N]`.

        Each class counts once more than it occurs, so that none is impossible.

        Raises:
            BadInput: if no datapoint has a label.
        """
        super().initialize(x, y)
        known = x.new_zeros(0, dtype=torch.long) if y is None else y[y >= 0]
        if not len(known):
            raise BadInput(f"{NAME} needs a few training datapoints with labels: all labels are missing (-1)")
        counts = torch.bincount(known, minlength=self.num_classes) + 1
        self.log_p_y.copy_((counts / counts.sum()).log())


def given(p: dist.Categorical, y: Tensor | None) -> dist.Categorical:
    """Return p(y) with batch_shape `[N]`, all of whose mass is at the labels y `[N]` where they are not −1."""
    if y is None:
        return p
    C = p.logits.shape[-1]
    point = torch.where(torch.arange(C, device=y.device) == y.unsqueeze(-1), 0.0, -torch.inf)
    return dist.Categorical(logits=torch.where((y >= 0).unsqueeze(-1), point.to(p.logits.dtype), p.logits))


def _mixture(logits: Tensor, components: TorchDistributionMixin) -> TorchDistributionMixin:
    """Return Σ_y p(y) p(· | y) for log p(y) `[..., C]` and components with batch_shape `[..., C]`."""
    return dist.MixtureSameFamily(dist.Categorical(logits=logits.expand(components.batch_shape)), components)
