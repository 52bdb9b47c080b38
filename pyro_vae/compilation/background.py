"""Compiles graphs in another process while this one works on."""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule

from pyro_vae.compilation import onednn
from pyro_vae.compilation.backend import Backend, inductor, like, no_line_about_cuda
from pyro_vae.compilation.compiled import Compiled
from pyro_vae.compilation.kernels import path
from pyro_vae.errors import one_line

log = logging.getLogger(__name__)

CHILD = "import sys; sys.path[:] = sys.argv[1:]; from pyro_vae.compilation.background import serve; serve()"


class Background:
    """Lets functions run as traced while another process compiles their graphs and leaves the code in inductor's cache.

    A thread would not do: to compile, torch sets the states of random generators, warnings and options of the whole
    process, and holds Python's lock. If the other process fails, or finds other options than this one has, `finish`
    compiles as usual, only not from the cache.
    """

    def __init__(self) -> None:
        self._postponed: list[tuple[Compiled, Callable[[], Any]]] = []
        self._process: Any = None
        self._has_graphs = False

    def take_only(self, compiled: Compiled, run: Callable[[], Any]) -> None:
        """Trace for the signatures of the calls that `run` makes, as `Compiled.take_only`, and compile later."""
        compiled.postpone()
        compiled.take_only(run)
        self._postponed.append((compiled, run))

    def is_cached(self) -> bool:
        """Return whether a process on this machine has compiled the graphs before, or none could be traced."""
        return not self._graphs() or self._marker().exists()

    def start(self) -> None:
        """Start the process, which first makes the other kernels available."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *sys.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process
        )

    def asks(self) -> bool:
        """Return whether the process waits for the graphs."""
        return not self._has_graphs and bool(select.select([self._process.stdout], [], [], 0)[0])

    @no_line_about_cuda()
    def send(self) -> None:
        """Send the graphs, for code that uses as many threads as there are now."""
        from torch.fx._graph_pickler import GraphPickler, Options  # a second to import

        self._has_graphs, pipe = True, self._process.stdin
        try:
            content = torch.get_num_threads(), torch.get_default_dtype(), self._portable()
            # `pickle` would trace the graphs again, and draw their random numbers once and for all
            pipe.write(GraphPickler.dumps(content, Options(ops_filter=None, node_metadata_key_filter=lambda _: False)))
            pipe.close()
        except Exception as error:  # the process has ended, or a graph contains something that cannot be pickled
            log.debug("not compiled in the background: %s", one_line(error))
            self.stop()

    def has_ended(self) -> bool:
        """Return whether the process has ended; perhaps it has failed."""
        return bool(self._process.poll() is not None)

    def finish(self) -> None:
        """Compile the graphs, which takes little time if their code is in the cache."""
        self.stop()
        marker = self._marker()
        for compiled, run in self._postponed:
            compiled.proceed()
            run()
        self._postponed.clear()
        with suppress(OSError):
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.touch()

    def stop(self) -> None:
        """End the process. A compiler that it has started finishes its file: half of one would stay in the cache."""
        if self._process is not None:
            self._process.kill()
            with suppress(BrokenPipeError), self._process:
                pass

    def _marker(self) -> Path:
        """Return the path of an empty file that shows that the graphs are in the cache."""
        key = [
            (graph.code, [(value.shape, value.dtype) for value in [*graph.parameters(), *graph.buffers(), *tensors]])
            for graph, tensors, _ in self._graphs()
        ]
        name = sha256(repr(key).encode()).hexdigest()[:16]
        return path().with_suffix(f".{name}")

    def _portable(self) -> list[tuple[GraphModule, list[Tensor]]]:
        """Choose kernels; return the graphs and their arguments without the values of parameters and arguments."""
        found = []
        for traced, tensors, backend in self._graphs():
            values = dict([*traced.named_parameters(), *traced.named_buffers()])
            graph = GraphModule({**vars(traced), **values}, deepcopy(traced.graph))
            backend.assign(graph)
            for name, value in graph.named_parameters():
                setattr(graph, name, nn.Parameter(like(value, "meta"), value.requires_grad))
            found.append((graph, [like(tensor, "meta") for tensor in tensors]))
        return found

    def _graphs(self) -> list[tuple[GraphModule, list[Tensor], Backend]]:
        every = [compiled.backend for compiled, _ in self._postponed]
        return [(*postponed, backend) for backend in every for postponed in backend.postponed or ()]


def serve() -> None:
    """Compile the graphs that another process sends."""
    from torch.fx._graph_pickler import GraphPickler

    onednn.kernel()
    os.write(1, b"\n")
    content: Any = GraphPickler.loads(sys.stdin.buffer.read(), FakeTensorMode())
    num_threads, dtype, graphs = content
    torch.set_num_threads(num_threads)
    torch.set_default_dtype(dtype)
    for graph, tensors in graphs:
        for name, value in graph.named_parameters():
            setattr(graph, name, nn.Parameter(like(value, "cpu"), value.requires_grad))
        with torch.no_grad():
            inductor(graph, [like(tensor, "cpu") for tensor in tensors], on_gpu=False)
