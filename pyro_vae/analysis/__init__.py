"""Analyses of a trained model and guide: inference gaps, ELBO surgery and imputation."""

from pyro_vae.analysis.gaps import Gaps, gaps
from pyro_vae.analysis.imputation import impute
from pyro_vae.analysis.surgery import Surgery, surgery

__all__ = ["Gaps", "Surgery", "gaps", "impute", "surgery"]
