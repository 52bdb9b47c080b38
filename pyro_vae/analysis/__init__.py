"""Analyses of a trained model and guide: inference gaps, ELBO surgery, imputation, certificates of estimators."""

from pyro_vae.analysis.certificate import Certificate, certificate
from pyro_vae.analysis.gaps import Gaps, gaps
from pyro_vae.analysis.imputation import impute
from pyro_vae.analysis.surgery import Surgery, surgery

__all__ = ["Certificate", "Gaps", "Surgery", "certificate", "gaps", "impute", "surgery"]
