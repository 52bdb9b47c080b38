"""Measure how fast this library and its peers are on this machine.

python -m pyro_vae.benchmark
python -m pyro_vae.benchmark 'works=[step_100,log_px]' rounds=3 seconds=0.1
python -m pyro_vae.benchmark works=memory
python -m pyro_vae.benchmark profile=true
python -m pyro_vae.benchmark 'contenders=[pyro_vae compiled,Pyro,torch]' baseline=Pyro num_threads=1

The model is a 784-200-200-50 VAE with tanh, a Bernoulli likelihood and a diagonal Gaussian guide.
Data are synthetic, and everything runs on the CPU. All works together take over half an hour; run
nothing else on the machine in the meantime. NumPyro and pythae are included if they are installed:
pip install -e '.[benchmark]'.
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

from pyro_vae.benchmark import machine, memory, profile, report
from pyro_vae.benchmark.contenders import BF16, CONTENDERS, Contender
from pyro_vae.benchmark.figure import draw
from pyro_vae.benchmark.session import Settings, measure
from pyro_vae.benchmark.works import WORKS
from pyro_vae.commands import shell
from pyro_vae.errors import BadInput, integer, one_of, positive, positive_int, true_false
from pyro_vae.programs.notes import NOTE

log = logging.getLogger(__name__)

MEMORY = "memory"
"""Name of the work without contenders: the memory of training as the data grow."""


def task(config: DictConfig) -> None:
    """Measure, print tables, and write benchmark.json and benchmark.png to Hydra's run directory."""
    works = chosen(config, "works", (*WORKS, MEMORY))
    names = chosen(config, "contenders", tuple(CONTENDERS))
    one_of("baseline", config.baseline, tuple(CONTENDERS))
    true_false("profile", config.profile)
    settings = Settings(
        rounds=positive_int("rounds", config.rounds),
        seconds=positive("seconds", config.seconds),
        seed=integer("seed", config.seed),
        num_threads=None if config.num_threads is None else positive_int("num_threads", config.num_threads),
    )
    contenders, notes = installed(names)
    run_dir = Path(HydraConfig.get().runtime.output_dir)
    log.info("run directory: %s", run_dir)
    results: dict[str, Any] = {"machine": machine.describe(settings.environment), "settings": asdict(settings)}
    if BF16 in contenders and not results["machine"]["bf16"]:
        note = "step_100 only: the CPU lacks bfloat16 instructions, so products are many times slower than in float32"
        contenders[BF16] = replace(contenders[BF16], works=("step_100",), note=note)
    busy = results["machine"]["load"] or 0.0
    if busy > 0.5:
        notes.append(f"the machine was busy (load {busy:.1f}): times and ratios may be far off")
    results["notes"] = [*notes, *(f"{name}: {c.note}" for name, c in contenders.items() if c.note)]
    results["works"] = {}
    log.info("%s", report.machine(results["machine"]))

    def write() -> None:
        (run_dir / "benchmark.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")

    with open(run_dir / "workers.log", "w") as errors, logging_redirect_tqdm():
        if MEMORY in works and not hasattr(os, "wait4"):
            results["notes"].append("memory is not measured: this system does not report the peak memory of a process")
        elif MEMORY in works:
            with tqdm(total=2 * len(memory.SOURCES), desc=MEMORY, disable=None) as bar:
                results[MEMORY] = memory.measure(settings.seed, errors, settings.environment, lambda: bar.update())
            log.info("\n%s\n", memory.table(results[MEMORY]))
            write()
        timed = [work for work in works if work != MEMORY]
        if config.profile:
            results["profile"] = {}
            for work in tqdm(timed, desc="profile", disable=None):
                results["profile"][work] = profile.measure(work, settings, errors)
                write()
            log.info("\n%s\n", profile.table(results["profile"]))
        for work in () if config.profile else timed:
            rivals = {name: c for name, c in contenders.items() if work in c.works}
            if not rivals:
                log.info("%s: not supported by any of these contenders", work)
                continue
            with tqdm(total=len(rivals) * (settings.rounds + 1), desc=work, disable=None) as bar:
                timings = measure(work, rivals, settings, errors, lambda: bar.update())
            baseline = report.baseline_of(work, timings, config.baseline)
            log.info("\n%s\n", report.table(work, timings, baseline, settings.rounds))
            results["works"][work] = report.as_dict(work, timings, baseline)
            write()
    if results["works"]:
        log.info("first result: time from the start of the imports, including compilation without a cache")
    for note in results["notes"]:
        log.log(NOTE, note)
    if results["works"]:
        draw(results, run_dir / "benchmark.png")
    log.info("run directory: %s", run_dir)


def chosen(config: DictConfig, key: str, choices: tuple[str, ...]) -> list[str]:
    """Return the names that `config[key]` selects: one, several, or all if it is null.

    Raises:
        BadInput: if the list is empty or a name is unknown.
    """
    given = config[key]
    if given is None:
        return list(choices)
    names = [given] if isinstance(given, str) else list(given)
    if not names:
        raise BadInput(f"{key}=[] leaves nothing to measure: choose from {', '.join(choices)}")
    return list(dict.fromkeys(one_of(key, name, choices) for name in names))


def installed(names: list[str]) -> tuple[dict[str, Contender], list[str]]:
    """Return the installed contenders, and a line for each of the others.

    Raises:
        BadInput: if none of them is installed.
    """
    contenders = {name: CONTENDERS[name] for name in names if CONTENDERS[name].is_installed}
    hint = "is not installed: pip install -e '.[benchmark]'"
    missing = [f"{name} {hint}" for name in names if name not in contenders]
    if not contenders:
        raise BadInput(", ".join(missing))
    return contenders, missing


def main() -> None:
    """Run the command."""
    shell.run(task, "benchmark", __doc__ or "")


if __name__ == "__main__":
    main()
