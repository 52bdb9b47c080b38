"""Methods that users call on a trained VAE."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor

from pyro_vae.data.frames import filled, is_frame, to_frame
from pyro_vae.data.schema import Column
from pyro_vae.data.sources import Data
from pyro_vae.data.values import Array
from pyro_vae.errors import BadInput, called, positive_int, true_false
from pyro_vae.marginal import Estimator, LogEvidence
from pyro_vae.programs import notes
from pyro_vae.programs.chunks import by_rows, require_room
from pyro_vae.programs.eval_mode import eval_mode
from pyro_vae.programs.random_state import seeded
from pyro_vae.programs.session import for_users
from pyro_vae.vae.history import History
from pyro_vae.vae.inputs import Labels, as_data, as_observed, as_z
from pyro_vae.vae.log_evidence import IN_FIT, estimator_of, warn_if_unreliable
from pyro_vae.vae.modules import Decoder, Encoder
from pyro_vae.vae.reader import Reader


class Methods(Reader):
    """What users call on a `VAE`. Arrays are processed by as many rows at a time as fit into memory."""

    history = History()
    """The epochs of the run that this VAE comes from."""
    saver: Callable[[Any, str | Path], None] | None = None
    """Writes a run directory; `fit` and `load` set it."""

    @for_users
    def encode(self, x: Data, *, y: Labels = None) -> Tensor:
        """Embed x `[N, *data_shape]` as the mean of q(z | x): `[N, latent_dim]`.

        x may be anything that `fit` accepts; sparse rows are densified a part at a time.

        With several layers, this is the mean of q(z_1 | x); without a closed form, it is the mean of 100 draws, with
        noise that depends on the row's place, but is the same in every call. `vae.q_z(x)` is the whole distribution.
        """
        parts = self._parts(x, y, self.concat)
        return torch.cat([by_rows(self._embed, data, labels) for data, labels, _ in parts])

    @for_users
    def decode(self, z: Array, *, y: Labels = None) -> Tensor:
        """Return the mean of p(x | z) for z `[..., latent_dim]`: `[..., *data_shape]`.

        `vae.p_x(z)` is the whole distribution.
        """
        z = as_z(z, self.latent_dim[0], self._like)
        leading = z.shape[:-1]
        labels = self._labels(y, leading[-1] if leading else 1, self.concat)
        if labels is not None:
            labels = labels.expand(*(leading or [1]), *labels.shape[1:]).reshape(-1, *labels.shape[1:])
        require_room(leading.numel() * self.data_shape.numel(), z, f"the mean of z {list(z.shape)} takes")
        return by_rows(self._mean, z.reshape(-1, z.shape[-1]), labels).reshape(leading + self.data_shape)

    @for_users
    def reconstruct(self, x: Data, *, y: Labels = None) -> Tensor:
        """Return the mean of p(x | z) at the embedding z of x: `[N, *data_shape]` -> `[N, *data_shape]`."""
        x, y = self._source(x, y)
        return self.decode(self.encode(x, y=y), y=y)

    @for_users
    def sample(self, n: int, *, y: Labels = None, mean: bool = False, as_frame: str | None = None) -> Any:
        """Draw n datapoints, z ~ p(z) and x ~ p(x | z): `[n, *data_shape]`.

        Args:
            n: number of draws.
            y: label to draw, or n labels, if the VAE is conditional; integers, or names of classes.
            mean: return the means of p(x | z) instead of draws.
            as_frame: return the rows, if the columns have names, as a data frame of `pandas`, `polars`, `pyarrow`,
                `modin` or `cudf`.

        Raises:
            BadInput: if n is not a positive integer, memory does not suffice, or y does not fit the VAE.
        """
        true_false("mean", mean)
        self._require_room("n", n, self.data_shape.numel())
        z = self.sample_z(n, y=y)
        x = by_rows(self._mean if mean else self._draw, z, self._labels(y, len(z), self.concat))
        columns = self.likelihood.columns or [Column(name, "real") for name in self.features]
        return x if as_frame is None else to_frame(x, columns, as_frame)

    @for_users
    def sample_z(self, n: int, *, y: Labels = None) -> Tensor:
        """Draw n latents z ~ p(z), of the first layer if there are several: `[n, latent_dim]`; see `sample`."""
        self._require_room("n", n, self.latent_dim[0])
        labels = self._labels(y, n, self.needs_labels)
        return by_rows(self._draw_z, torch.empty(n, 0), labels)

    @for_users
    def log_prob(
        self,
        x: Data,
        num_samples: int | None = None,
        *,
        y: Labels = None,
        estimator: str | Estimator = "auto",
        **settings: Any,
    ) -> Tensor:
        """Estimate log p(x), or log p(x | y), of x `[N, *data_shape]`, in nats per datapoint: `[N]`, float64.

        Warns if more than 1 % of the estimates are unreliable (`LogEvidence.unreliable`; 5 % with fewer than 200
        samples), or if the likelihood does not suit x. `evidence` returns standard errors and diagnostics as well.
        `estimator="importance"` is quicker and less accurate.

        Args:
            x: data.
            num_samples: samples per datapoint; None: the estimator's default.
            y: labels of a conditional VAE.
            estimator: `auto`, `sandwich`, `importance`, `refined`, `ais`, `elbo`, `exact`, ..., or an `Estimator`.
            **settings: of the estimator, as in `estimator="ais", num_temperatures=500`.

        Raises:
            BadInput: if x is not in the likelihood's support, or a setting is unknown or out of range.
        """
        if num_samples is not None:
            settings["num_samples"] = positive_int("num_samples", num_samples)
        by = estimator_of(estimator, settings)
        evidence = self._evidence(x, y, by)
        warn_if_unreliable(evidence, by)
        return evidence.log_px

    @for_users
    def evidence(
        self, x: Data, *, y: Labels = None, estimator: str | Estimator = "auto", **settings: Any
    ) -> LogEvidence:
        """Estimate log p(x) with standard errors, effective sample sizes and Pareto k; arguments as for `log_prob`."""
        return self._evidence(x, y, estimator_of(estimator, settings))

    @for_users
    def impute(
        self,
        x: Data,
        mask: Array | None = None,
        *,
        y: Labels = None,
        num_samples: int = 10,
        num_steps: int | None = None,
        num_proposals: int | None = None,
        mean: bool = False,
        method: str = "auto",
    ) -> Any:
        """Draw the missing values of x given the observed ones: `[num_samples, N, *data_shape]`.

        Args:
            x: data `[N, *data_shape]`, with NaN or any number where values are missing. For a data frame the result is
                a list of `num_samples` data frames.
            mask: True where x is observed, of a shape that broadcasts to that of x, or a data frame with its columns;
                None: NaN is missing.
            y: labels of a conditional VAE.
            num_samples: number of draws, each from a separate Markov chain.
            num_steps: length of the chains.
            num_proposals: number of weighted draws of z, with `method="importance"`.
            mean: return means of p(x_mis | z) instead of draws; with `importance`, E[x_mis | x_obs], `[1, N, ...]`.
            method: `auto`, `posterior`, `gibbs` or `importance`: see `analysis.imputation.impute`.
        """
        from pyro_vae.analysis.imputation import impute

        given, columns, units = x, self.likelihood.columns, self.likelihood.units
        x, y = self._source(x, y)
        x = as_data(self._dense(x), self.data_shape, self._like, nan=True, inf=True, columns=columns, units=units)
        observed = as_observed(mask, x, self.column_names)
        if warning := self.likelihood.check_observed(torch.where(observed, x, torch.nan)):
            notes.warn(warning)
        labels = self._labels(y, len(x), self.needs_labels)
        draws = impute(
            *self.factorizing_programs(labels), x, observed, labels, num_samples=num_samples, num_steps=num_steps,
            num_proposals=num_proposals, mean=mean, method=method, accepts_nan=self.missing or bool(columns),
        )  # fmt: skip
        return [filled(given, draw, observed, columns) for draw in draws] if is_frame(given) and columns else draws

    def save(self, run_dir: str | Path) -> None:
        """Save as a run directory, for `pyro_vae.load(run_dir)` and `python -m pyro_vae.evaluate run=DIR`.

        It holds the configuration, the present weights and the history, but no data: to evaluate a VAE of `fit`, pass
        its array in a file, `data.path=FILE.npy split=val`. Loading your own classes needs their names in `trust`.

        Raises:
            BadInput: if the directory holds a run already, or this VAE does not come from `fit` or `load`.
        """
        if self.saver is None:
            raise BadInput(
                "this VAE has no configuration to save, as VAE.build made it: use torch.save(vae.state_dict(), FILE), "
                "or train with pyro_vae.fit"
            )
        self.saver(self, run_dir)

    # For other tools: tensors in, tensors out ---------------------------------------------------------

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """Reconstruct x `[N, *data_shape]`: the mean of p(x | z) at the mean z of q(z | x); with gradients.

        `reconstruct` does the same for arrays of any type and size.
        """
        with pyro.validation_enabled(False):  # its checks depend on data, which torch.export does not allow
            return self._mean(self._embed(x, y), y)

    def encoder_module(self) -> Encoder:
        """Return x -> mean and standard deviation of q(z | x) as a plain module that shares this VAE's weights.

        `torch.export`, `torch.onnx.export` and `torch.jit.trace` accept it. It is called with (x, y) if
        `conditioning="concat"`, and describes q(z_1 | x) of several layers.

        Raises:
            BadInput: if q(z | x) has no mean in closed form, or depends on the decoder.
        """
        module = Encoder(self.standardize, self.encoder, self.posterior, self._of_networks).train(self.training)
        with eval_mode(module):
            module.check(self._like.new_zeros(1, *self.data_shape))
        return module

    def decoder_module(self) -> Decoder:
        """Return z -> mean of p(x | z) as a plain module, as `encoder_module` does."""
        return Decoder(self.decoder, self.likelihood, self._of_networks).train(self.training)

    # Shared by these methods --------------------------------------------------------------------------

    def _evidence(self, x: Data, y: Labels, estimator: Estimator) -> LogEvidence:
        parts: list[LogEvidence] = []
        told: set[str] = set()
        for data, labels, warning in self._parts(x, y, self.needs_labels):
            if warning and warning not in told:
                notes.warn(warning)
                told.add(warning)
            with called(IN_FIT):
                parts.append(estimator(*self.programs(labels), data, labels))
        return parts[0] if len(parts) == 1 else LogEvidence.cat(parts)

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
        """Check that n draws of `size` numbers each fit into memory."""
        require_room(positive_int(name, n) * size, self._like, f"{name}={n} takes")
