"""Figures from arrays. Each function returns the matplotlib axes it has drawn.

    ax = plots.samples(x)
    ax.figure.savefig("samples.png")

Data other than images are drawn as points, intervals, rows of a heat map, or lines.
"""

from pyro_vae.runs.plots.evidence import bounds, curve, gaps, histogram, surgery, tails
from pyro_vae.runs.plots.images import Limits, is_image, tile
from pyro_vae.runs.plots.model import latent, manifold, reconstructions, samples, training
from pyro_vae.runs.plots.runs import comparison, search

__all__ = [
    "Limits", "bounds", "comparison", "curve", "gaps", "histogram", "is_image", "latent", "manifold",
    "reconstructions", "samples", "search", "surgery", "tails", "tile", "training",
]  # fmt: skip
