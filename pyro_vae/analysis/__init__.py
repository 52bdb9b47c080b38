"""Analyses of a trained model and guide: inference gaps, ELBO surgery and imputation."""

from pyro_vae.analysis.gaps import gaps
from pyro_vae.analysis.imputation import impute
from pyro_vae.analysis.surgery import collapse, limit, shown, surgery

__all__ = ["collapse", "gaps", "impute", "limit", "shown", "surgery"]
