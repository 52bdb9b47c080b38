"""Importance sampling from the guide, as in the IWAE paper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from pyro_vae.compilation.compiled import compiled
from pyro_vae.errors import true_false, true_false_auto
from pyro_vae.marginal.draws import Keeper, require_room_for_draws
from pyro_vae.marginal.estimator import Estimator, Progress
from pyro_vae.marginal.evidence import Accumulator, LogEvidence, accumulate, sample_sizes
from pyro_vae.marginal.pareto import FEW
from pyro_vae.programs.density import is_discrete
from pyro_vae.programs.log_weights import log_weights, stream
from pyro_vae.programs.memory import chunk_option, pairs_at_once
from pyro_vae.programs.trace import Program


class Importance(Estimator):
    """Estimates log p̂(x) = log (1/K) Σ_k p(x, z_k) / q(z_k | x) with z_k ~ q(z | x).

    Its expectation never exceeds log p(x) and rises with K: Burda, Grosse & Salakhutdinov (2016), Importance Weighted
    Autoencoders, https://arxiv.org/abs/1509.00519, eq. 8.

    Args:
        num_samples: K, or a list of several K, for which `LogEvidence.curve` holds estimates from one set of samples.
        chunk_size: pairs (sample, datapoint) in memory at once; `auto` uses as many as fit into the cache.
        compile: True, False or `auto`, see `Estimator`.
        keep_draws: keep all draws and log-weights in `LogEvidence.draws`, for `LogEvidence.to_arviz`. Nothing is
            compiled then.

    Raises:
        BadInput: if an argument is out of range.

    Example:
        >>> evidence = Importance(num_samples=5000)(vae.model, vae.guide, x)
        >>> evidence.log_px.shape, evidence.se.shape, evidence.ess.shape
        (torch.Size([20]), torch.Size([20]), torch.Size([20]))
    """

    name = "importance"

    def __init__(
        self,
        num_samples: int | Sequence[int] = 1000,
        chunk_size: int | str = "auto",
        compile: bool | str = "auto",
        keep_draws: bool = False,
    ) -> None:
        self.sizes = sample_sizes(num_samples)
        self.num_samples = self.sizes[-1]
        self.chunk_size = chunk_option(chunk_size)
        self.compile = true_false_auto("compile", compile)
        self.keep_draws = true_false("keep_draws", keep_draws)

    def estimate(self, model: Program, guide: Program, x: Tensor, y: Tensor | None, progress: Progress) -> LogEvidence:
        """Estimate log p(x) for x `[N, ...]`."""
        keeper = Keeper() if self.keep_draws else None
        if keeper is not None:
            require_room_for_draws(self.num_samples, guide, x, y)
        chunks = stream(
            model,
            guide,
            x,
            y,
            num_samples=self.num_samples,
            chunk_size=pairs_at_once(self.chunk_size, model, x, y),
            progress=progress,
            weigh=compiled(log_weights, self.compile) if keeper is None else keeper.weigh,
        )
        parts = []
        for blocks in chunks:
            part = accumulate(blocks, self.sizes, self.reduce)
            parts.append(part if keeper is None else replace(part, draws=keeper.take()))
        evidence = LogEvidence.cat(parts)
        return evidence.without_tail() if is_discrete(guide, x, y) else evidence

    def advice(self, discrete: bool = False) -> str | None:
        """Advise proposals fitted to each datapoint; more samples for discrete latents, or if there are few samples."""
        more = f"set estimator.num_samples={max(1000, 10 * self.num_samples)}"
        if discrete:
            return more
        auto = "use estimator=auto, which fits a proposal to each datapoint"
        return f"{more}, or {auto}" if self.num_samples < FEW else auto

    def reduce(self, sums: Accumulator) -> LogEvidence:
        """Return the estimate, given sums over all K log-weights."""
        return sums.log_mean()
