"""The estimates of all datapoints, updated by each stage of `auto`."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pyro_vae.marginal.evidence import STAGES, LogEvidence
from pyro_vae.marginal.proposal import Proposal

Waiting = tuple[Tensor, Proposal]
"""Datapoints whose estimates are not good enough, and their proposals."""


@dataclass
class Ledger:
    """The last estimate of each datapoint, and what it cost.

    Attributes:
        evidence: estimates of N datapoints, NaN where there is none so far.
        target_se: standard error above which an estimate is not good enough, in nats.
    """

    evidence: LogEvidence
    target_se: float

    @classmethod
    def empty(cls, elbo: Tensor, num_samples: int, target_se: float) -> Ledger:
        """Return a ledger that knows only the ELBO `[N]`."""
        unknown, zero = torch.full_like(elbo, math.nan), torch.zeros_like(elbo)
        no = torch.zeros_like(elbo, dtype=torch.bool)
        extra = {
            "log_px_lower": unknown - math.inf,
            "num_modes": zero,
            "gain": zero,
            "num_draws": zero,
            "seconds": zero,
        }
        evidence = LogEvidence(
            unknown, unknown, zero, unknown, elbo, num_samples, extra=extra, reliable=no, stage=no.long()
        )
        return cls(evidence, target_se)

    def write(
        self, index: Tensor, found: LogEvidence, stage: str, started: float, proposal: Proposal | None = None
    ) -> Tensor:
        """Replace the estimates of the datapoints in `index` `[n]` by those in `found`.

        Two kinds of estimates are not reliable whatever their weights: those whose search was incomplete, except
        integrals, and those below the previous one's confidence bound, which have missed what that one saw.

        Args:
            index: the datapoints.
            found: their estimates.
            stage: one of `STAGES`; that of integrals is `quadrature`.
            started: when the work on them began, by `time.monotonic`.
            proposal: where the estimates come from.

        Returns:
            Which of them are still not good enough, `[n]`.
        """
        integrated = found.ess.isinf()
        fell = found.log_px + 4 * found.se < self.evidence.extra["log_px_lower"][index]
        incomplete = ~integrated & proposal.incomplete if proposal is not None else torch.zeros_like(fell)
        found = replace(found, reliable=~(found.unreliable | fell | incomplete))
        extra = {
            "log_px_lower": found.extra["log_px_lower"],
            **{name: self.evidence.extra[name][index] for name in ("num_modes", "gain")},
            "num_draws": torch.full_like(found.se, found.num_samples),
            "seconds": self.evidence.extra["seconds"][index] + (time.monotonic() - started) / len(index),
        }
        if stage == "search" and proposal is not None:
            extra |= {"num_modes": proposal.num_modes.to(found.se), "gain": proposal.gain.to(found.se)}
        by = torch.where(integrated & (stage == "search"), STAGES.index("quadrature"), STAGES.index(stage))
        update = replace(found, elbo=self.evidence.elbo[index], extra=extra, stage=by)
        self.evidence = self.evidence.updated(index, update)
        return found.unreliable | ~(found.se <= self.target_se)
