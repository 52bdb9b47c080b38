"""Exact expectation-maximization, for the models that have it: where VAEs come from."""

from pyro_vae.em.exact import ExactEM

__all__ = ["ExactEM"]
