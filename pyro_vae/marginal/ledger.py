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
        rounded: whether an estimate is unreliable because of rounding (`proposal.is_rounded`), `[N]`.
        floor: the highest lower confidence bound so far, of any estimate, `[N]`.
    """

    evidence: LogEvidence
    target_se: float
    rounded: Tensor
    floor: Tensor

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
        return cls(evidence, target_se, no, torch.full_like(elbo, -math.inf))

    def refutes(self, index: Tensor, found: LogEvidence) -> Tensor:
        """Return which estimates of the datapoints in `index` are below an earlier confidence bound, `[n]`."""
        return found.log_px + 4 * found.se < self.floor[index]

    def raise_floor(self, index: Tensor, bound: Tensor) -> None:
        """Take note of lower confidence bounds `[n]` of the datapoints in `index`."""
        self.floor[index] = self.floor[index].fmax(bound)

    def write(
        self, index: Tensor, found: LogEvidence, stage: str, started: float, proposal: Proposal | None = None
    ) -> Tensor:
        """Replace the estimates of the datapoints in `index` `[n]` by those in `found`.

        Two kinds of estimates are not reliable whatever their weights: those whose search was incomplete, except
        integrals, and those below an earlier one's confidence bound, which have missed what that one saw.

        A finite estimate stays where the new one is not finite, but is unreliable: some density is NaN, or too small.

        Args:
            index: the datapoints.
            found: their estimates.
            stage: one of `STAGES`; that of integrals is `quadrature`.
            started: when the work on them began, by `time.monotonic`.
            proposal: where the estimates come from.

        Returns:
            Which of them are still not good enough, `[n]`.
        """
        old, integrated = self.evidence.rows(index), found.ess.isinf()
        fell = self.refutes(index, found)
        self.raise_floor(index, found.extra["log_px_lower"])
        incomplete = ~integrated & proposal.incomplete if proposal is not None else torch.zeros_like(fell)
        found = found.unless(fell | incomplete)
        extra = old.extra | {
            "log_px_lower": found.extra["log_px_lower"],
            "num_draws": torch.full_like(found.se, found.num_samples).masked_fill(integrated, 0),
        }
        if stage == "search" and proposal is not None:
            extra |= {"num_modes": proposal.num_modes.to(found.se), "gain": proposal.gain.to(found.se)}
        by = torch.where(integrated, STAGES.index("quadrature"), STAGES.index(stage))
        new = replace(found, elbo=old.elbo, extra=extra, stage=by)
        (kept,) = (old.log_px.isfinite() & ~new.log_px.isfinite()).nonzero(as_tuple=True)
        new = new.updated(kept, replace(old.rows(kept), reliable=torch.zeros_like(kept, dtype=torch.bool)))
        new.extra["seconds"] = old.extra["seconds"] + (time.monotonic() - started) / len(index)
        self.evidence = self.evidence.updated(index, new)
        return new.unreliable | ~(new.se <= self.target_se)


def without_work(found: LogEvidence, seconds: float) -> LogEvidence:
    """Return estimates that needed neither search nor draws, with what a ledger tells of others."""
    zero = torch.zeros_like(found.log_px)
    none = dict.fromkeys(("num_modes", "gain", "num_draws"), zero)
    return replace(found, extra={**found.extra, **none, "seconds": zero + seconds / len(zero)})
