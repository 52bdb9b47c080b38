"""Runs a contender in a separate process: one JSON line per request on stdin, one per reply on stdout.

{"work": …, "options": {…}, "seed": …, "num_threads": …}  sets a work up: {"seconds": …, "units": …}
{"work": …, "repetitions": n}                              runs it n times twice: {"seconds": …} of the second

Replies also hold "peak_mib". A reply with "failed" alone gives the reason in one line.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from pyro_vae.benchmark.works import Timed, data
from pyro_vae.errors import one_line


def serve(module: str, requests: Iterable[str], reply: Callable[[dict[str, Any]], None]) -> None:
    """Reply to every request; an error in `module` becomes a reply with `failed`."""
    timed: dict[str, Timed] = {}
    works: dict[str, Callable[..., Timed]] = {}
    for line in requests:
        request = json.loads(line)
        work = request["work"]
        try:
            if "repetitions" in request:
                # processors of a virtual machine that was idle can take half a second to reach their speed
                timed[work].run(request["repetitions"])
                started = time.perf_counter()
                timed[work].run(request["repetitions"])
                answer = {"seconds": time.perf_counter() - started}
            else:
                x = data(work, request["seed"])
                started = time.perf_counter()
                if not works:
                    contender = import_module(module)
                    _settle_torch(request["seed"], request["num_threads"])
                    works = contender.works(**request["options"])
                timed[work] = works[work](x)
                timed[work].run(1)
                answer = {"seconds": time.perf_counter() - started, "units": timed[work].units}
        except Exception as error:
            traceback.print_exc()
            reply({"failed": f"{type(error).__name__}: {one_line(error)}"})
        else:
            reply({**answer, "peak_mib": peak_mib()})


def peak_mib() -> float | None:
    """Return the peak memory of this process in MiB; None on systems that do not report it (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    return mib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def mib(ru_maxrss: int) -> float:
    """Convert a peak reported by the system to MiB."""
    return ru_maxrss / 2 ** (20 if sys.platform == "darwin" else 10)  # bytes there, KiB elsewhere


def _settle_torch(seed: int, num_threads: int | None) -> None:
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)
        if num_threads is not None:
            torch.set_num_threads(num_threads)


def main() -> None:
    """Serve requests from stdin until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C and ends its workers
    warnings.filterwarnings("error", "not compiled")  # Compiled would continue uncompiled, and its times would mislead
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keep the output of libraries, also from C++, out of the replies

    def reply(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=replies, flush=True)

    serve(sys.argv[1], sys.stdin, reply)


if __name__ == "__main__":
    main()
