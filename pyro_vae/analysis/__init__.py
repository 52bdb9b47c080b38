"""What a trained model and guide have learnt: gaps, surgery of the ELBO, imputation."""

from pyro_vae.analysis.gaps import gaps
from pyro_vae.analysis.imputation import impute
from pyro_vae.analysis.surgery import collapse, limit, shown, surgery

__all__ = ["collapse", "gaps", "impute", "limit", "shown", "surgery"]
