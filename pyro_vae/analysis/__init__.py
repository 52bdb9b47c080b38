"""Analyses of a model and guide: gaps, ELBO surgery, imputation, anomaly scores, certificates of estimators."""

from pyro_vae.analysis.anomaly import AnomalyScores
from pyro_vae.analysis.certificate import Certificate, certificate
from pyro_vae.analysis.gaps import Gaps, gaps
from pyro_vae.analysis.imputation import impute
from pyro_vae.analysis.surgery import Surgery, surgery

__all__ = ["AnomalyScores", "Certificate", "Gaps", "Surgery", "certificate", "gaps", "impute", "surgery"]
