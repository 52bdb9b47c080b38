"""Steps without effect, to check and to compile a training."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import chain, count

import pyro

from pyro_vae.compilation.break_even import seconds
from pyro_vae.compilation.compiled import Compiled, TakeOnly
from pyro_vae.compilation.kernels import Kernels, fastest
from pyro_vae.compilation.products import Product
from pyro_vae.data.split import Batch, Split
from pyro_vae.errors import FailedRun, one_line
from pyro_vae.objectives import Objective
from pyro_vae.parallel import collectives
from pyro_vae.training.state import State
from pyro_vae.training.svi import SVI
from pyro_vae.training.validation_elbo import MeanELBO


class DryRun:
    """Computes the loss and gradient of each of an objective's programs; see `SVI.dry_run`.

    Args:
        svi: of `reported_loss(objective)`.
        objective: the bound.
        batch: of the size that most steps have.
        state: the position in training.
    """

    def __init__(self, svi: SVI, objective: Objective, batch: Batch, state: State) -> None:
        self.svi, self.objective, self.batch, self.state = svi, objective, batch, state
        found: dict[Hashable, int] = {}
        for step in count(state.step):
            found.setdefault(objective.at_step(step, state.epoch), step)
            if len(found) == objective.num_variants:
                break
        self.steps = list(found.values())
        """The next step of each program."""

    def __call__(self) -> None:
        """Run each program once."""
        for step in self.steps:
            self.svi.dry_run(*self.batch, self.objective.at_step(step, self.state.epoch))

    def check(self) -> None:
        """Run with all of Pyro's checks, which read every value.

        Raises:
            FailedRun: if Pyro finds parameters that violate their constraints.
        """
        try:
            with pyro.validation_enabled(True):
                self()
        except ValueError as error:
            raise FailedRun(f"step {self.state.step + 1}: {one_line(error)}") from error

    def compile(self, mean_elbo: MeanELBO, val: Split, take_only: TakeOnly = Compiled.take_only) -> None:
        """Compile the steps, and the validation."""
        chosen = self.state.kernels
        kernels = None if chosen is None else Kernels(chosen, agreed)
        self.svi.compile(self, kernels, take_only)
        mean_elbo.compile(val.x, val.y, kernels, take_only)

    def seconds(self) -> float:
        """Return the time of a step."""
        return seconds(self) / len(self.steps)


def agreed(wanted: list[Product]) -> dict[str, str]:
    """Return the kernels that rank 0 chooses for the products of all ranks, whose shares of a batch may differ."""
    every = sorted(set(chain.from_iterable(collectives.gather(wanted))))
    return collectives.from_rank_0(fastest(every) if collectives.rank() == 0 else {})
