"""Decides whether a training is compiled, and when."""

from __future__ import annotations

import logging
import os
import sys
import time
from types import TracebackType

import torch

from pyro_vae.compilation.background import Background
from pyro_vae.compilation.break_even import pays_back
from pyro_vae.data.split import Split
from pyro_vae.parallel import collectives
from pyro_vae.programs.random_state import fork_rng
from pyro_vae.training import threads
from pyro_vae.training.dry_run import DryRun
from pyro_vae.training.state import State
from pyro_vae.training.validation_elbo import MeanELBO

log = logging.getLogger(__name__)


class Switch:
    """Compiles a training: at its start, or in another process while its first steps run as traced.

    On leaving the context, the other process ends.

    Args:
        setting: of `Trainer.compile`; `background` compiles in another process, if possible.
        state: the position in training, which contains the decisions.
    """

    def __init__(self, setting: bool | str, state: State) -> None:
        self.setting, self.state = setting, state
        self._background: Background | None = None

    def prepare(
        self, dry_run: DryRun, mean_elbo: MeanELBO, val: Split, num_steps: float, max_seconds: float | None
    ) -> None:
        """Decide before the first step, and compile or begin to.

        Args:
            dry_run: runs the steps.
            mean_elbo: the validation.
            val: its data.
            num_steps: number of steps to come.
            max_seconds: time for them.
        """
        state, background = self.state, self.setting == "background" and in_background(val.x.device)
        if self.setting != "auto":
            state.decide(bool(self.setting))
        elif state.compiled is None:
            num_calls = num_steps / len(dry_run.steps)
            state.decide(collectives.from_rank_0(pays_back(dry_run, num_calls, max_seconds)))
        if not state.compiled:
            return
        if self.setting == "background" and not background:
            log.info("compiled before the first step: background needs a CPU with two cores and a single process")
        self._dry_run, self._num_threads, self._started = dry_run, torch.get_num_threads(), time.monotonic()
        if background and state.compiled_at is None:
            postponed = Background()
            dry_run.compile(mean_elbo, val, postponed.take_only)
            if not postponed.is_cached():
                self._background = postponed
                postponed.start()
                # OpenMP's threads wait for each other, also for one whose core compiles
                torch.set_num_threads(min(self._num_threads, threads.num_cores() - 1))
                return
            postponed.finish()
        else:
            dry_run.compile(mean_elbo, val)
        self._done("compiled")

    def after_step(self) -> None:
        """Let the following steps run compiled if their code is ready."""
        if self._background is None:
            return
        asked, ended = self._background.asks(), self._background.has_ended()
        if not asked and not ended:
            return
        num_threads = torch.get_num_threads()
        torch.set_num_threads(self._num_threads)
        with fork_rng():
            if ended:
                self._background.finish()
                self._background = None
                self._done(f"step {self.state.step + 1} is the first compiled one,")
            else:
                self._background.send()
                torch.set_num_threads(num_threads)

    def _done(self, what: str) -> None:
        if self.state.compiled_at is None:
            self.state.compiled_at = self.state.step
        passed = time.monotonic() - self._started
        log.info("%s in %.1f s, %.2f ms per step", what, passed, 1e3 * self._dry_run.seconds())

    def __enter__(self) -> Switch:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._background is not None:
            self._background.stop()


def in_background(device: torch.device) -> bool:
    """Return whether another process can compile for a training on `device`.

    Several processes would have to switch at the same step, and code for a GPU is chosen by timing it on an idle one.
    """
    can_start = os.name == "posix" and bool(sys.executable) and not getattr(sys, "frozen", False)
    return can_start and device.type == "cpu" and collectives.world_size() == 1 and threads.num_cores() > 1
