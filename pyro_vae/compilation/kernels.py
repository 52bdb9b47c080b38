"""Chooses the fastest kernel for each product of float32 matrices, and remembers the choice."""

from __future__ import annotations

import json
import logging
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from statistics import median

import torch
from torch.fx import GraphModule

from pyro_vae.compilation import onednn
from pyro_vae.compilation.products import Product, products, replace

log = logging.getLogger(__name__)

TORCH, ONEDNN = KERNELS = "torch", "onednn"
GAIN = 1.03
"""Minimal ratio of times to replace torch's kernel; smaller ones may be noise."""
REPEATS = 3
"""Comparisons of two kernels. Their median decides, since other work on the machine can spoil one."""


def fastest(wanted: Sequence[Product]) -> dict[str, str]:
    """Return the name of the fastest kernel of each product, from the disk if it has been timed before."""
    if not wanted:
        return {}
    kernel = onednn.kernel()
    if kernel is None:
        return {str(product): TORCH for product in wanted}
    file = path()
    known = _read(file)
    timed = {
        str(product): ONEDNN if _is_faster(kernel, product) else TORCH
        for product in wanted
        if str(product) not in known
    }
    if timed:
        _write(file, {**_read(file), **timed})
    return {str(product): {**known, **timed}[str(product)] for product in wanted}


def _is_faster(kernel: onednn.Kernel, product: Product) -> bool:
    try:
        return median(product.gain(kernel) for _ in range(REPEATS)) > GAIN
    except RuntimeError:  # not enough memory for operands
        return False


class Kernels:
    """Assigns a kernel to each product of float32 matrices in the graphs of a process or a training.

    Kernels round differently, so a product with the same layouts always gets the same kernel.

    Args:
        chosen: kernels chosen before, which may not be the fastest on this machine. New ones are added.
        choose: chooses kernels for products that are not among these.
    """

    def __init__(self, chosen: dict[str, str], choose: Callable[[list[Product]], Mapping[str, str]] = fastest) -> None:
        self.chosen = chosen
        self.choose = choose

    def assign(self, graph: GraphModule) -> None:
        """Replace the products of a graph that oneDNN computes."""
        found = products(graph)
        self.chosen.update(self.choose(sorted({p for p in found.values() if str(p) not in self.chosen})))
        nodes = [node for node, product in found.items() if self.chosen[str(product)] == ONEDNN]
        if nodes and onednn.kernel() is None:
            log.warning(
                "torch computes products of matrices that oneDNN has computed before: results may round differently"
            )
        elif nodes:
            for node in nodes:
                replace(graph, node)
            graph.recompile()
        log.debug("oneDNN computes %d of %d products of matrices", len(nodes), len(found))


OF_PROCESS = Kernels({})
"""For graphs that are not part of a training."""


def path() -> Path:
    """Return the file of choices for this processor, this version of torch, these settings and number of threads."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir  # a second to import

    words = "vendor_id", "cpu family", "model", "stepping", "flags", "CPU implementer", "CPU part", "Features"
    info: list[str] = []
    with suppress(OSError):  # Linux has it
        info = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    settings = "ATEN_", "DNNL_", "GOMP_", "KMP_", "MKL_", "OMP_", "ONEDNN_"
    key = (
        platform.machine(),
        [line for line in info if line.startswith(words)],
        sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(settings)),
        torch.__version__,
        torch.backends.cpu.get_cpu_capability(),
        torch.get_float32_matmul_precision(),
        torch.get_num_threads(),
        GAIN,
    )
    name = sha256(repr(key).encode()).hexdigest()[:16]
    return Path(cache_dir()) / "pyro_vae" / f"kernels-{name}.json"


def _read(path: Path) -> dict[str, str]:
    """Read the choices in a file; a missing or damaged one has none."""
    try:
        content = json.loads(path.read_text())
        return {name: kernel for name, kernel in content.items() if kernel in KERNELS}
    except (OSError, ValueError, AttributeError):
        return {}


def _write(path: Path, chosen: Mapping[str, str]) -> None:
    """Write the file atomically, if it can be written: other processes may do so at the same time."""
    from torch._inductor.codecache import write_atomic

    with suppress(OSError):
        write_atomic(str(path), json.dumps(chosen, indent=1), make_dirs=True)
