"""Exact expectation-maximization, the ancestor of VAEs, for models whose steps have a closed form."""

from pyro_vae.em.exact import ExactEM

__all__ = ["ExactEM"]
