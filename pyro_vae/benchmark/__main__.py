"""Measure how fast this library is on this machine, beside its peers.

python -m pyro_vae.benchmark
python -m pyro_vae.benchmark works=[step_100,log_px] rounds=3 seconds=0.1
python -m pyro_vae.benchmark works=[memory]
python -m pyro_vae.benchmark 'contenders=[pyro_vae compiled,Pyro,torch]' baseline=Pyro num_threads=1

The model is a VAE 784-200-200-50 with tanh, Bernoulli likelihood and diagonal Gaussian guide, the data are synthetic,
all is done by the processor. The whole takes half an hour, and is worth little if the machine does anything else.
NumPyro and pythae take part where they are installed: pip install -e '.[benchmark]'.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pyro_vae.benchmark import machine, memory, report
from pyro_vae.benchmark.contenders import BF16, CONTENDERS, Contender
from pyro_vae.benchmark.figure import draw
from pyro_vae.benchmark.session import Settings, measure
from pyro_vae.benchmark.works import WORKS
from pyro_vae.commands import shell
from pyro_vae.errors import BadInput, one_of, positive, positive_int, within
from pyro_vae.programs.notes import NOTE

log = logging.getLogger(__name__)

MEMORY = "memory"
"""A work without contenders: how much training takes as the data grow."""


def task(config: DictConfig) -> None:
    """Measure, print tables, write benchmark.json and benchmark.png into Hydra's run directory."""
    works = chosen(config, "works", (*WORKS, MEMORY))
    names = chosen(config, "contenders", tuple(CONTENDERS))
    one_of("baseline", config.baseline, tuple(CONTENDERS))
    settings = Settings(
        rounds=positive_int("rounds", config.rounds),
        seconds=positive("seconds", config.seconds),
        seed=int(within("seed", config.seed, low=0)),
        num_threads=None if config.num_threads is None else positive_int("num_threads", config.num_threads),
    )
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    log.info("run directory: %s", run_dir)
    contenders, notes = installed(names)
    results: dict[str, Any] = {"machine": machine.describe(settings.environment), "settings": asdict(settings)}
    if BF16 in contenders and not results["machine"]["bf16"]:
        note = "step_100 only: without instructions for bfloat16 its products are many times slower than float32's"
        contenders[BF16] = replace(contenders[BF16], works=("step_100",), note=note)
    busy = results["machine"]["load"] or 0.0
    if busy > 0.5:
        notes.append(f"the machine was busy, its load {busy:.1f}: times may be far too long, ratios far off")
    results["notes"] = [*notes, *(f"{name}: {c.note}" for name, c in contenders.items() if c.note)]
    results["works"] = {}
    log.info("%s", report.machine(results["machine"]))

    def write() -> None:
        (run_dir / "benchmark.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")

    with open(run_dir / "workers.log", "w") as errors, logging_redirect_tqdm():
        if MEMORY in works and not hasattr(os, "wait4"):
            results["notes"].append("memory is not measured on this system: it does not say what a process has held")
        elif MEMORY in works:
            with tqdm(total=2 * len(memory.SOURCES), desc=MEMORY, disable=None) as bar:
                results[MEMORY] = memory.measure(settings.seed, errors, settings.environment, lambda: bar.update())
            log.info("\n%s\n", memory.table(results[MEMORY]))
            write()
        for work in (work for work in works if work != MEMORY):
            rivals = {name: c for name, c in contenders.items() if work in c.works}
            if not rivals:
                log.info("%s: none of these contenders does it", work)
                continue
            with tqdm(total=len(rivals) * (settings.rounds + 1), desc=work, disable=None) as bar:
                timings = measure(work, rivals, settings, errors, lambda: bar.update())
            baseline = report.baseline_of(work, timings, config.baseline)
            log.info("\n%s\n", report.table(work, timings, baseline, settings.rounds))
            results["works"][work] = report.as_dict(work, timings, baseline)
            write()
    log.info("first result: since the start of the imports, compiling, without a cache, included")
    for note in results["notes"]:
        log.log(NOTE, note)
    if results["works"]:
        draw(results, run_dir / "benchmark.png")
    log.info("run directory: %s", run_dir)


def chosen(config: DictConfig, key: str, choices: tuple[str, ...]) -> list[str]:
    """The names under this key, one or several; null: all.

    Raises:
        BadInput: if there are none, or one is unknown.
    """
    given = config[key]
    if given is None:
        return list(choices)
    names = [given] if isinstance(given, str) else list(given)
    if not names:
        raise BadInput(f"{key}=[] leaves nothing to measure: choose from {', '.join(choices)}")
    return list(dict.fromkeys(one_of(key, name, choices) for name in names))


def installed(names: list[str]) -> tuple[dict[str, Contender], list[str]]:
    """Those of the contenders that are installed, and a line for each that is not.

    Raises:
        BadInput: if none is.
    """
    contenders = {name: CONTENDERS[name] for name in names if CONTENDERS[name].is_installed}
    hint = "is not installed: pip install -e '.[benchmark]'"
    missing = [f"{name} {hint}" for name in names if name not in contenders]
    if not contenders:
        raise BadInput(", ".join(missing))
    return contenders, missing


def main() -> None:
    """The command."""
    shell.run(task, "benchmark", __doc__ or "")


if __name__ == "__main__":
    main()
