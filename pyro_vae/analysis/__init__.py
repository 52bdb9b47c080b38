"""Analyses: gaps, ELBO surgery, imputation, anomaly scores, certificates of estimators, differences between models."""

from pyro_vae.analysis.anomaly import AnomalyScores
from pyro_vae.analysis.certificate import Certificate, certificate
from pyro_vae.analysis.difference import Difference
from pyro_vae.analysis.gaps import Gaps, gaps
from pyro_vae.analysis.imputation import impute
from pyro_vae.analysis.surgery import Surgery, surgery

__all__ = ["AnomalyScores", "Certificate", "Difference", "Gaps", "Surgery", "certificate", "gaps", "impute", "surgery"]
