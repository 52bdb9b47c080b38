"""Lists the milliseconds of this library's compiled works by cause."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import IO, Any

from pyro_vae.benchmark.session import Settings
from pyro_vae.errors import FailedRun

CAUSES = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "product"),
    "fused kernels": ("cpp_fused", "graph_"),
    "Adam": ("_fused_adam", "_foreach"),
    "random numbers": ("aten::normal", "aten::bernoulli", "aten::uniform", "aten::rand", "aten::exponential"),
    "copies": ("aten::copy_", "aten::clone", "aten::contiguous", "aten::index", "aten::cat"),
}
"""Names of the profiler's events, or parts of them, by cause; others are `other operations`."""


def measure(work: str, settings: Settings, errors: IO[str]) -> dict[str, float]:
    """Return the milliseconds per step or datapoint by cause; `total` is measured without the profiler.

    Raises:
        FailedRun: if the work fails; its output is in `errors`.
    """
    command = [sys.executable, "-m", "pyro_vae.benchmark.profile", work, str(settings.seed)]
    environment = {**os.environ, **settings.environment}
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True, check=False)
    if process.returncode:
        raise FailedRun(f"profile: {work} exited with status {process.returncode}: see workers.log")
    row: dict[str, float] = json.loads(process.stdout.splitlines()[-1])
    return row


def table(rows: dict[str, dict[str, float]]) -> str:
    """Format the milliseconds as a table with a column for each work."""
    causes = list(dict.fromkeys(cause for row in rows.values() for cause in row))
    lines = ["milliseconds of compiled works by cause", " " * 18 + "".join(f"{work:>12}" for work in rows)]
    lines += [f"{cause:18}" + "".join(f"{row.get(cause, 0.0):12.3f}" for row in rows.values()) for cause in causes]
    return "\n".join(lines)


def by_cause(run: Callable[[int], None], units: float, seconds: float = 1.0) -> dict[str, float]:
    """Profile a work for some seconds, and return the milliseconds per unit by cause."""
    from torch.profiler import profile

    started = time.perf_counter()
    run(1)
    n = max(1, round(seconds / (time.perf_counter() - started)))
    started = time.perf_counter()
    run(n)
    scale = 1e3 / (n * units)
    total = scale * (time.perf_counter() - started)
    with profile() as events:
        run(n)
    found = dict.fromkeys([*CAUSES, "other operations"], 0.0)
    for event in events.key_averages():
        if event.key.startswith("## Call"):  # Python between the kernels of a graph
            continue
        causes = (cause for cause, names in CAUSES.items() if any(name in event.key for name in names))
        found[next(causes, "other operations")] += scale * 1e-6 * event.self_cpu_time_total
    return {**found, "Python": max(0.0, total - sum(found.values())), "total": total}


def main() -> None:
    """Print the milliseconds of the work that the arguments name by cause, as JSON."""
    import torch
    from torch._inductor import config
    from torch._inductor.select_algorithm import extern_kernels

    from pyro_vae.benchmark import ours, pyro_svi
    from pyro_vae.benchmark.works import data
    from pyro_vae.compilation import onednn

    work, seed = sys.argv[1], int(sys.argv[2])
    torch.manual_seed(seed)
    config.cpp.enable_kernel_profile = True  # an event for each fused kernel
    if (kernel := onednn.kernel()) is not None:  # not an operation of torch, so that it makes no event

        def product(*args: Any, **kwargs: Any) -> Any:
            with torch.profiler.record_function("product"):
                return kernel(*args, **kwargs)

        setattr(extern_kernels, onednn.NAME, product)
    works = pyro_svi.works("compiled") if work == "program" else ours.works(compile=True)
    timed = works[work](data(work, seed))
    timed.run(3)
    print(json.dumps(by_cause(timed.run, timed.units)))


if __name__ == "__main__":
    main()
