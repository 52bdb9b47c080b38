"""Steps without effect, to check and to compile a training."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import chain

import pyro
from torch import Tensor

from pyro_vae.compilation.break_even import seconds
from pyro_vae.compilation.compiled import Compiled, TakeOnly
from pyro_vae.compilation.kernels import Kernels, fastest
from pyro_vae.compilation.products import Product
from pyro_vae.data.split import Batch, Split
from pyro_vae.errors import BadInput, FailedRun, one_line
from pyro_vae.objectives import Objective
from pyro_vae.parallel import collectives
from pyro_vae.programs.repeatable import require_repeatable
from pyro_vae.training.state import State
from pyro_vae.training.svi import SVI, every_parameter
from pyro_vae.training.validation_elbo import MeanELBO

LOOKAHEAD = 10_000
"""Steps among which the programs of an objective are looked for; one that comes later runs uncompiled."""


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
        for step in range(state.step, state.step + LOOKAHEAD):
            found.setdefault(objective.at_step(step, state.epoch), step)
            if len(found) == objective.num_variants:
                break
        self.steps = list(found.values())
        """The next step of each program, as far as it is among the next `LOOKAHEAD` of this epoch."""

    def __call__(self) -> None:
        """Run each program once."""
        self._parameters()

    def _parameters(self) -> list[Tensor]:
        """Run each program once; return the parameters that have a gradient."""
        parameters: list[Tensor] = []
        for step in self.steps:
            parameters += self.svi.dry_run(*self.batch, self.objective.at_step(step, self.state.epoch))
        return parameters

    def check(self) -> None:
        """Run with all of Pyro's checks, which read every value.

        Raises:
            FailedRun: if Pyro finds parameters that violate their constraints.
            BadInput: if Pyro does not know a parameter, or densities are random that must not be.
        """
        try:
            with pyro.validation_enabled(True):
                parameters = self._parameters()
        except ValueError as error:
            raise FailedRun(f"step {self.state.step + 1}: {one_line(error)}") from error
        known = set(map(id, every_parameter()))
        if others := [list(parameter.shape) for parameter in parameters if id(parameter) not in known]:
            raise BadInput(
                f"a parameter of shape {others[0]} is not in Pyro's param store, so that training would not change it: "
                "keep it as an nn.Parameter of a module of the VAE, and contiguous, p.data = p.data.contiguous()"
            )
        x, y = self.batch
        model, guide = self.svi.model, self.svi.guide
        with self.svi.without_effect(x):
            if self.objective.traces_guide_twice:
                require_repeatable("guide", guide, x, y, f"objective={self.objective.name}")
            if getattr(getattr(model, "__self__", None), "missingness", None) is not None:
                require_repeatable("model", model, x, y, "a missingness model")

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
