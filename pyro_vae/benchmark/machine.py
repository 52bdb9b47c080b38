"""Describes the machine. A child process asks torch, so that this process need not import it."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("pyro-vae", "torch", "pyro-ppl", "numpyro", "jax", "pythae")


def describe(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return processor, threads, peak, load and versions; `environment` holds variables to add, as for the workers."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # before this benchmark adds to it
    command = [sys.executable, "-m", "pyro_vae.benchmark.machine"]
    output = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return {
        "cpu": cpu(),
        "cores": os.cpu_count(),
        **json.loads(output.stdout.splitlines()[-1]),
        "load": load,
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), **versions()},
    }


def cpu() -> str:
    """Return the name of the processor."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line]
        if names:
            return names[0]
    if sys.platform == "darwin":
        return subprocess.run(
            ["sysctl", "-n", "machdep.cpu.brand_string"], capture_output=True, text=True, check=False
        ).stdout.strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of the installed packages."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Print the number of threads, whether bfloat16 is fast, and the peak, as JSON."""
    import torch

    from pyro_vae.benchmark.gemm import peak
    from pyro_vae.training.precision import is_fast

    print(json.dumps({"threads": torch.get_num_threads(), "bf16": is_fast(torch.device("cpu")), "peak": peak()}))


if __name__ == "__main__":
    main()
