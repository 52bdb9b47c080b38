"""The evaluations that a run directory holds, and the commands that make missing ones."""

from __future__ import annotations

import json
import logging
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyro_vae.data.dataset import SPLITS
from pyro_vae.errors import BadInput, datapoints, integer, one_of
from pyro_vae.marginal import BDMC, ELBO, Auto
from pyro_vae.runs import files
from pyro_vae.runs.config import option
from pyro_vae.runs.files import refuse_link
from pyro_vae.runs.groups import contents_of
from pyro_vae.runs.paired import Scores

log = logging.getLogger(__name__)

Key = tuple[str, str, int]
"""NAME-K, the split and the number of its first datapoints: what evaluations must share to be compared."""


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of a run: NAME-K.json, and NAME-K.npz beside it.

    Attributes:
        path: of NAME-K.json.
        split: of the datapoints.
        num_data: number of datapoints, the first of the split.
        estimator: its name.
        num_samples: K.
        settings: of the estimator, with its `_target_`.
        seed: of the estimates.
    """

    path: Path
    split: str
    num_data: int
    estimator: str
    num_samples: int
    settings: Mapping[str, Any]
    seed: int

    @classmethod
    def read(cls, path: Path) -> Evaluation | None:
        """Read NAME-K.json; None if it is another file, is of simulated data, or has no arrays beside it."""
        try:
            content = json.loads(files.read(path, limit=2**24))
            split, num_data = one_of("split", content["split"], SPLITS), integer("num_data", content["num_data"])
            estimator, settings = str(content["estimator"]), dict(content["settings"])
            num_samples, seed = integer("num_samples", content["num_samples"]), integer("seed", content["seed"])
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return None
        if not re.fullmatch(r"[\w-]+", estimator) or estimator == BDMC.name or not path.with_suffix(".npz").is_file():
            return None
        return cls(path, split, num_data, estimator, num_samples, settings, seed)

    @property
    def key(self) -> Key:
        """What other evaluations must share."""
        return self.path.stem, self.split, self.num_data

    @property
    def value(self) -> str:
        """What is estimated, in words."""
        return "ELBO" if self.estimator == ELBO.name else "log p(x)"

    def scores(self) -> Scores:
        """Read the values per datapoint.

        Raises:
            BadInput: if they are not those of `num_data` datapoints, or damaged.
        """
        scores = Scores.read(path := self.path.with_suffix(".npz"))
        if len(scores.log_px) != self.num_data:
            raise BadInput(f"{path} holds {datapoints(len(scores.log_px))}, {self.path.name} {self.num_data}")
        return scores

    def command(self, run: Path) -> str:
        """Return the command that makes the same evaluation of another run."""
        own = [
            shlex.quote(f"estimator.{key}={json.dumps(value, separators=(',', ':'))}")
            for key, value in self.settings.items()
            if key != "_target_" and all(default.get(key) != value for default in self._defaults)
        ]
        place = [f"split={self.split}", f"num_data={self.num_data}", *([f"seed={self.seed}"] if self.seed else [])]
        return _evaluate(run, f"estimator={self.estimator}", *own, *place)

    @property
    def run(self) -> Path:
        """The run directory."""
        return next(folder.parent for folder in self.path.parents if folder.name == "evaluations")

    @property
    def _defaults(self) -> list[dict[str, Any]]:
        return contents_of("estimator", self.settings.get("_target_"))


def _evaluate(run: Path, *options: str) -> str:
    return " ".join(["python -m pyro_vae.evaluate", option("run", run), *options])


def of_run(run: Path) -> dict[Key, Evaluation]:
    """Find the evaluations of a run; those that later ones have set aside in folders SPLIT-N, too."""
    folder = run / "evaluations"
    refuse_link(folder)
    later = sorted((path for path in folder.glob("*/*.json") if not path.parent.is_symlink()), reverse=True)
    found: dict[Key, Evaluation] = {}
    for path in [*sorted(folder.glob("*.json")), *later]:
        if not path.is_symlink() and (evaluation := Evaluation.read(path)):
            found.setdefault(evaluation.key, evaluation)
    return found


def common(
    runs: Sequence[Path], name: str | None = None, split: str | None = None, num_data: int | None = None
) -> list[Evaluation]:
    """Choose an evaluation that all runs have: the same estimator, number of samples, split and datapoints.

    Of several, it is that of the most datapoints, preferably of estimator=auto, with the most samples.

    Args:
        runs: the run directories.
        name: NAME-K, if given.
        split: the split, if given.
        num_data: the number of its first datapoints, if given.

    Returns:
        The evaluation of each run.

    Raises:
        BadInput: if they have none in common, with the command that makes one.
    """
    wanted = (name, split, num_data)
    found = [
        {key: one for key, one in of_run(run).items() if all(w in (None, k) for w, k in zip(wanted, key, strict=True))}
        for run in runs
    ]
    shared = set.intersection(*map(set, found))
    if not shared:
        raise BadInput(_missing(runs, found, wanted))
    key = max(shared, key=lambda key: _rank(found[0][key]))
    if others := _listed(shared - {key}):
        log.info("these runs have other evaluations in common, too: %s", others)
    return [evaluations[key] for evaluations in found]


def _rank(one: Evaluation) -> tuple[int, bool, bool, int, Key]:
    """Order evaluations, the preferred last."""
    return one.num_data, one.estimator == Auto.name, one.estimator != ELBO.name, one.num_samples, one.key


def _listed(keys: Collection[Key]) -> str:
    return "; ".join(f"evaluation={name} split={split} num_data={n}" for name, split, n in sorted(keys))


def _missing(runs: Sequence[Path], found: Sequence[Mapping[Key, Evaluation]], wanted: tuple[Any, Any, Any]) -> str:
    """Say which run lacks an evaluation that another one has, and which command makes it."""
    names = ("evaluation", "split", "num_data")
    such = "".join(f" {name}={value}" for name, value in zip(names, wanted, strict=True) if value is not None)
    having = {run: evaluations for run, evaluations in zip(runs, found, strict=True) if evaluations}
    if not having:
        name, split, num_data = wanted
        estimator, _, K = (name or "").rpartition("-")
        options = [
            *([option("estimator", estimator), option("estimator.num_samples", K)] if name else []),
            *([] if split is None else [f"split={split}"]),
            *([] if num_data is None else [f"num_data={num_data}"]),
        ]
        return (
            f"none of these runs has stored an evaluation{such and ' with' + such}: make one of each, as with "
            f"{_evaluate(runs[0], *options)}"
        )
    best = max((one for evaluations in having.values() for one in evaluations.values()), key=_rank)
    lacking = next(run for run, evaluations in zip(runs, found, strict=True) if best.key not in evaluations)
    stem, split, num_data = best.key
    return (
        f"{lacking} has no evaluation {stem} of the first {datapoints(num_data)} of split={split}, as {best.run} has: "
        f"make it with {best.command(lacking)}"
    )
