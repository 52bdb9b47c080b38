"""The VAE as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pyro_vae.api import Option, fit
from pyro_vae.errors import positive_int
from pyro_vae.marginal import Estimator
from pyro_vae.programs.random_state import seeded
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

    NaN marks a missing entry, which is not observed: log p(x) is that of the other entries of a row.

    Args:
        latent_dim: dimension of z.
        likelihood: p(x | z), an option of conf/likelihood. As in `fit`, options are names, names with settings,
            as in `("gaussian", {"scale": "per_pixel"})`, or your own classes.
        prior: p(z), an option of conf/prior.
        guide: q(z | x), an option of conf/guide.
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
        self._seed = check_random_state(self.random_state).randint(MAX_SEED)
        self.vae_: VAE = fit(
            X,
            likelihood=self.likelihood,
            prior=self.prior,
            guide=self.guide,
            network=("mlp", {"hidden": self.hidden}),
            latent_dim=self.latent_dim,
            max_epochs=self.max_epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            val_fraction=self.val_fraction,
            device=self.device,
            seed=self._seed,
            verbose=bool(self.verbose),
            overrides=self.overrides,
        )
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Embed X `[N, P]` as the means of q(z | x), `[N, latent_dim]`; see `VAE.encode`."""
        X = self._validated(X)
        return _numpy(self.vae_.encode(X))

    def inverse_transform(self, X: Any) -> np.ndarray:
        """Return the means of p(x | z), `[N, P]`, at the embeddings X `[N, latent_dim]`."""
        check_is_fitted(self, "vae_")
        return _numpy(self.vae_.decode(check_array(X, dtype="numeric")))

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

    def sample(self, n_samples: int = 1) -> np.ndarray:
        """Draw rows from p(x): `[n_samples, P]`. With an integer `random_state`, each call draws the same rows."""
        check_is_fitted(self, "vae_")
        positive_int("n_samples", n_samples)
        seed = check_random_state(self.random_state).randint(MAX_SEED)
        with seeded(seed, next(self.vae_.parameters())):
            return _numpy(self.vae_.sample(n_samples))

    def _validated(self, X: Any, reset: bool = False, **checks: Any) -> np.ndarray:
        """Return X as floats. With `reset`, keep its features; otherwise compare it with those that were kept."""
        if not reset:
            check_is_fitted(self, "vae_")
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
