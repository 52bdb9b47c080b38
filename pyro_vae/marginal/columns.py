"""The columns of the table of estimates, and their meanings."""

MEANING = {
    "elbo": "evidence lower bound",
    "log_px": "log p(x), estimate",
    "log_px_se": "standard error over datapoints",
    "log_px_mc_se": "standard error of the estimator's own noise",
    "ess_median": "effective sample size, median",
    "ess_min": "effective sample size, smallest",
    "pareto_k_max": "Pareto k, largest",
    "unreliable": "share of datapoints whose estimate fails a check: {criterion}",
}
"""Columns of every table."""

OF_WEIGHTS = ("ess_median", "ess_min", "pareto_k_max")
"""Columns that are left out where the estimator decides itself whether estimates are reliable."""

EXTRA = {
    "log_px_lower": "lower bound of log p(x) that holds for each datapoint with 95 % confidence",
    "num_modes": "modes of the posterior that are sampled",
    "gain": "log p(x) gained by searching from several starts, by Laplace's approximation",
    "num_draws": "draws per datapoint that made the estimate",
    "seconds": "work per datapoint, in seconds",
    "baseline": "log p(x) of independent marginals, one for each dimension, fitted to the training set",
    "baseline_gaussian": "log p(x) of one Gaussian with full covariance, fitted to the training set",
    "acceptance": "share of HMC proposals accepted",
    "log_px_upper": "log p(x), upper bound",
    "log_px_upper_se": "standard error of the upper bound's own noise",
    "gap": "upper bound - log p(x), estimate",
    "gap_certified": "largest gap of a certified datapoint",
    "rhat": "R-hat of the Markov chains, largest of a datapoint",
    "certified": "share of datapoints whose chains agree and meet (conditional: no mode was missed by all chains)",
    "struski_upper": "log p(x), upper bound of its mean without posterior draws (standard error: log_px_mc_se)",
    "loc_error": "distance of q's mean from the posterior's, in its standard deviations, largest of a datapoint",
    "scale_ratio": "standard deviation of q / the posterior's, geometric mean over dimensions",
    "correlation": "correlation of two dimensions of the posterior, largest absolute one of a datapoint",
    "bits_per_dim": "-log p(x) in bits per dimension",
}
"""Columns that only some tables have."""

OF_BOUNDS = {
    "log_px": "evidence lower bound, in place of log p(x)",
    "bits_per_dim": "-evidence lower bound in bits per dimension",
}
"""Columns that mean something else if the estimator gives only the ELBO."""

OF_SEARCHES = ("num_modes", "gain")
"""Columns about a search for modes: means over the datapoints for which there was one."""
