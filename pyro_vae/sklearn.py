"""The VAE as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyro_vae.api import Option, fit
from pyro_vae.data.frames import to_frame
from pyro_vae.errors import BadInput, positive_int, true_false_auto
from pyro_vae.marginal import Estimator
from pyro_vae.programs.random_state import seeded
from pyro_vae.runs.in_memory import is_table
from pyro_vae.vae import VAE

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, DensityMixin, TransformerMixin
    from sklearn.utils import Tags, check_array, check_random_state
    from sklearn.utils.validation import check_is_fitted, validate_data
except ImportError as error:
    raise ImportError(
        "pyro_vae.VariationalAutoencoder needs scikit-learn 1.6 or later: pip install 'pyro-vae[sklearn]'"
    ) from error

MAX_SEED = 2**31 - 1


class VariationalAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, DensityMixin, BaseEstimator):  # type: ignore[misc]
    """Density model and embedding of the rows of a table X `[N, P]`, a scikit-learn estimator around `pyro_vae.fit`.

    It works in pipelines, `GridSearchCV` and `cross_val_score`, where its score is the mean log p(x) in nats. Data are
    modelled in the units in which they arrive. Log densities of a scaled X are those of the scaled values: do not
    compare them between scalers.

    NaN marks a missing entry, which is not observed: log p(x) is that of the other entries of a row. If the rows of
    `fit` may be complete and others not, as in cross-validation, set `missing=True`.

    With `likelihood="table"`, X is a data frame whose columns have different kinds, as in `pyro_vae.fit`; you need not
    encode them first. `inverse_transform` and `sample` then return data frames of the same library. Rows with a
    category that the training rows did not have are rejected, which may stop a cross-validation: leave out rare
    categories.

    y is ignored, as scikit-learn expects of density models. For a model of p(x | y) use `pyro_vae.fit`.

    Args:
        latent_dim: dimension of z.
        likelihood: p(x | z), an option of conf/likelihood. As in `fit`, options are names, names with settings,
            as in `("gaussian", {"scale": "per_pixel"})`, or your own classes.
        prior: p(z), an option of conf/prior.
        guide: q(z | x), an option of conf/guide.
        standardize: measure each column in its own scale, for `gaussian` and `student_t`: True, False or `auto`, if the
            scales are very different. log p(x) stays in the units of X.
        missing: whether entries of X may be missing; `auto`: if some are missing in `fit`.
        kinds: of a data frame's columns by name, with `likelihood="table"`, where they are not recognized.
        hidden: layer widths of the encoder, reversed in the decoder; `()` makes both linear.
        max_epochs: passes over the training data.
        batch_size: datapoints a step.
        lr: learning rate.
        val_fraction: share of X that is held out to choose the best epoch; 0 keeps the last epoch.
        estimator: of log p(x), by name or an `Estimator` from `pyro_vae.marginal`.
        num_samples: samples per datapoint of the estimator; None: its default.
        device: `cpu`, `cuda`, …, or `auto`: a GPU if there is one.
        random_state: of the training, the samples and the noise in log p(x): an integer, a NumPy `RandomState`, or
            None, which uses NumPy's global one.
        verbose: show progress on stderr.
        overrides: whatever else the command accepts, as in `["trainer.patience=10"]`. They win over parameters.

    Attributes:
        vae_: the trained `VAE`. `vae_.history` has the rows of all epochs, and
            `vae_.evidence(X)` the standard errors and diagnostics of log p(x).
        n_features_in_: P, the number of features in `fit`.
        feature_names_in_: their names, if X is a DataFrame whose columns are all named by strings.

    Example:
        >>> import numpy as np
        >>> from sklearn.model_selection import cross_val_score
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> X = np.random.default_rng(0).normal(size=(20, 4))
        >>> vae = VariationalAutoencoder(latent_dim=2, hidden=[8], max_epochs=2, random_state=0)
        >>> vae.fit_transform(X).shape, vae.score_samples(X).shape, vae.sample(5).shape
        ((20, 2), (20,), (5, 4))
        >>> cross_val_score(make_pipeline(StandardScaler(), vae), X, cv=2).shape
        (2,)
    """

    def __init__(
        self,
        latent_dim: int = 2,
        *,
        likelihood: Option = "gaussian",
        prior: Option = "standard_normal",
        guide: Option = "diagonal",
        standardize: bool | str = "auto",
        missing: bool | str = "auto",
        kinds: Mapping[str, Any] | None = None,
        hidden: Sequence[int] = (64, 64),
        max_epochs: int = 300,
        batch_size: int = 100,
        lr: float = 3e-3,
        val_fraction: float = 0.1,
        estimator: str | Estimator = "auto",
        num_samples: int | None = None,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
        overrides: Sequence[str] = (),
    ) -> None:
        self.latent_dim = latent_dim
        self.likelihood = likelihood
        self.prior = prior
        self.guide = guide
        self.standardize = standardize
        self.missing = missing
        self.kinds = kinds
        self.hidden = hidden
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.lr = lr
        self.val_fraction = val_fraction
        self.estimator = estimator
        self.num_samples = num_samples
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.overrides = overrides

    def fit(self, X: Any, y: Any = None) -> VariationalAutoencoder:
        """Train a VAE on X `[N, P]`; y is ignored.

        Raises:
            BadInput: a ValueError, as `pyro_vae.fit` does; scikit-learn's checks of X raise other ValueErrors.
            FailedRun: if the loss becomes NaN or infinite.
        """
        X = self._validated(X, reset=True, ensure_min_samples=2)
        self._library = type(X).__module__.partition(".")[0] if self._is_table(X) else None
        self._seed = check_random_state(self.random_state).randint(MAX_SEED)
        missing = true_false_auto("missing", self.missing)
        asked = [f"data.missing={missing}".lower()] if self._library is None and missing != "auto" else []
        self.vae_: VAE = fit(
            X,
            likelihood=self.likelihood,
            prior=self.prior,
            guide=self.guide,
            network=("mlp", {"hidden": self.hidden}),
            standardize=self.standardize if self._library is None else None,
            kinds=self.kinds,
            latent_dim=self.latent_dim,
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            val_fraction=self.val_fraction,
            device=self.device,
            seed=self._seed,
            verbose=bool(self.verbose),
            overrides=[*asked, *self.overrides] if asked else self.overrides,
        )
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Embed X `[N, P]` as the means of q(z | x), `[N, latent_dim]`; see `VAE.encode`."""
        X = self._validated(X)
        return _numpy(self.vae_.encode(X))

    def inverse_transform(self, X: Any) -> Any:
        """Return the means of p(x | z), `[N, P]`, at the embeddings X `[N, latent_dim]`."""
        check_is_fitted(self, "vae_")
        means = self.vae_.decode(check_array(X, dtype="numeric"))
        return _numpy(means) if self._library is None else to_frame(means, self.vae_.likelihood.columns, self._library)

    def score_samples(self, X: Any) -> np.ndarray:
        """Estimate log p(x) of each row of X, in nats: `[N]`.

        The noise of an estimate is the same in every call, so that scores are reproducible. It depends on the row's
        place in X.

        Warns if more than 1 % of the estimates are unreliable; see `VAE.log_prob`.
        """
        X = self._validated(X)
        with seeded(self._seed, next(self.vae_.parameters())):
            return _numpy(self.vae_.log_prob(X, self.num_samples, estimator=self.estimator))

    def score(self, X: Any, y: Any = None) -> float:
        """Return the mean log p(x) of X, in nats per row; y is ignored."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> Any:
        """Draw rows from p(x): `[n_samples, P]`. With an integer `random_state`, each call draws the same rows."""
        check_is_fitted(self, "vae_")
        positive_int("n_samples", n_samples)
        seed = check_random_state(self.random_state).randint(MAX_SEED)
        with seeded(seed, next(self.vae_.parameters())):
            drawn = self.vae_.sample(n_samples, as_frame=self._library)
        return _numpy(drawn) if self._library is None else drawn

    def _is_table(self, X: Any) -> bool:
        """Whether X is a data frame whose columns have their own kinds."""
        return is_table(X, self.likelihood, None, self.overrides)

    def _validated(self, X: Any, reset: bool = False, **checks: Any) -> Any:
        """Return X as floats, or a table as it is. With `reset`, keep its features; otherwise compare it with them."""
        if not reset:
            check_is_fitted(self, "vae_")
        if self._is_table(X):
            validate_data(self, X, reset=reset, skip_check_array=True)
            return X
        if not reset and self._library is not None:
            raise BadInput(f"X has type {type(X).__name__}: give a data frame, as in fit")
        floats = [np.float64, np.float32]
        X = validate_data(self, X, reset=reset, dtype=floats, ensure_all_finite="allow-nan", **checks)
        return np.asarray(X)  # of a memory map as well

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    @property
    def _n_features_out(self) -> int:
        """Number of columns of `transform`."""
        return self.vae_.latent_dim[0]


def _numpy(x: Any) -> np.ndarray:
    values: np.ndarray = x.cpu().double().numpy()
    return values
