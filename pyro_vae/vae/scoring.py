"""Anomaly scores of a VAE, compared with data that its run has held out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyro_vae.data import Split
from pyro_vae.data.values import Array
from pyro_vae.errors import BadInput, positive_int
from pyro_vae.marginal import Estimator
from pyro_vae.programs import notes
from pyro_vae.programs.session import for_users
from pyro_vae.vae.inputs import Labels
from pyro_vae.vae.log_evidence import estimator_of, warn_if_unreliable
from pyro_vae.vae.methods import Methods

if TYPE_CHECKING:
    from pyro_vae.analysis.anomaly import AnomalyScores, Measures


class Scoring(Methods):
    """Adds `anomaly_score` to what users call on a `VAE`."""

    held_out_data: Callable[[], Split] | None = None
    """Returns the test data of this VAE's run, or its validation data if there are none; `fit` and `load` set it."""

    @for_users
    def anomaly_score(
        self,
        x: Array,
        *,
        y: Labels = None,
        held_out: Array | None = None,
        held_out_y: Labels = None,
        num_held_out: int = 500,
        num_steps: int = 300,
        estimator: str | Estimator = "auto",
        **settings: Any,
    ) -> AnomalyScores:
        """Tell how unusual each x is: log p(x) and its tail probability, likelihood regret, contributions of entries.

        `AnomalyScores` explains them, and why a high log p(x) does not prove that x is normal. Each is compared with
        data that were held out of training: the run's test data, or its validation data if there are none, as after
        `fit`. The validation data have chosen the best epoch, which makes them look slightly more likely than new data.

        Args:
            x: data `[N, *data_shape]`, or a data frame if the VAE is of a table.
            y: labels of a conditional VAE.
            held_out: data to compare with, `[M, *data_shape]`; None: those of the run.
            held_out_y: labels of `held_out`.
            num_held_out: use the first so many of the held-out data, or all if there are fewer. Tail probabilities
                below 1 / (num_held_out + 1) cannot be resolved.
            num_steps: gradient steps that fit q(z) to each datapoint, for its likelihood regret.
            estimator: of log p(x), as for `log_prob`.
            **settings: of the estimator.

        Raises:
            BadInput: if held-out data are missing, or x or a setting cannot be used.

        Example:
            >>> x = torch.rand(200, 6).round()
            >>> vae = pyro_vae.fit(x, latent_dim=2, network=("mlp", {"hidden": [8]}), max_epochs=2, verbose=False)
            >>> scores = vae.anomaly_score(x[:3], estimator="importance", num_samples=100, num_steps=20)
            >>> scores.tail_probability.shape, scores.contributions.shape
            (torch.Size([3]), torch.Size([3, 6]))
        """
        from pyro_vae.analysis.anomaly import compare, measure

        by = estimator_of(estimator, settings)
        n, steps = positive_int("num_held_out", num_held_out), positive_int("num_steps", num_steps)
        if held_out is None:
            known = None if self.held_out_data is None else self.held_out_data()
            if known is None or not len(known):
                raise BadInput(
                    "this VAE has no held-out data to compare x with: give held_out=x_val, data that were not used in "
                    "training"
                )
            held_out, held_out_y = known.x, known.y if self.needs_labels else None
        measured: list[Measures] = []
        for data, labels in ((x, y), (held_out, held_out_y)):
            own_x, own_y = self._source(data, labels)
            values, warning = self._data(self._dense(own_x))
            if warning:
                notes.warn(warning)
            own = self._labels(own_y, len(values), self.needs_labels)
            first = slice(n if measured else None)
            own = None if own is None else own[first]
            measured.append(measure(*self.programs(own), values[first], by, own, num_steps=steps))
        warn_if_unreliable(measured[0].evidence, by)
        return compare(measured[0], measured[1])
