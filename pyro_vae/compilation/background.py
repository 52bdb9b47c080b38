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
from typing import IO, Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensorMode
from torch.fx import GraphModule
from torch.fx._graph_pickler import GraphPickler, Options

from pyro_vae.compilation import onednn
from pyro_vae.compilation.backend import inductor, like, no_line_about_cuda
from pyro_vae.compilation.compiled import Compiled
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
        self._process: subprocess.Popen[bytes]
        self._has_graphs = False

    def take_only(self, compiled: Compiled, run: Callable[[], Any]) -> None:
        """Trace for the signatures of the calls that `run` makes, as `Compiled.take_only`, and compile later."""
        compiled.postpone()
        compiled.take_only(run)
        self._postponed.append((compiled, run))

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
        pipe: Any = self._process.stdout
        return not self._has_graphs and bool(select.select([pipe], [], [], 0)[0])

    @no_line_about_cuda()
    def send(self) -> None:
        """Send the graphs, for code that uses as many threads as there are now."""
        self._has_graphs, pipe = True, cast(IO[bytes], self._process.stdin)
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
        return self._process.poll() is not None

    def finish(self) -> None:
        """Compile the graphs, which takes little time if their code is in the cache."""
        self.stop()
        for compiled, run in self._postponed:
            compiled.proceed()
            run()
        self._postponed.clear()

    def stop(self) -> None:
        """End the process. A compiler that it has started finishes its file: half of one would stay in the cache."""
        self._process.kill()
        with suppress(BrokenPipeError), self._process:
            pass

    def _portable(self) -> list[tuple[GraphModule, list[Tensor]]]:
        """Choose kernels; return the graphs and their arguments without the values of parameters and arguments."""
        found = []
        for compiled, _ in self._postponed:
            for traced, tensors in compiled.backend.postponed or ():
                values = dict([*traced.named_parameters(), *traced.named_buffers()])
                graph = GraphModule({**vars(traced), **values}, deepcopy(traced.graph))
                compiled.backend.assign(graph)
                for name, value in graph.named_parameters():
                    setattr(graph, name, nn.Parameter(like(value, "meta"), value.requires_grad))
                found.append((graph, [like(tensor, "meta") for tensor in tensors]))
        return found


def serve() -> None:
    """Compile the graphs that another process sends."""
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
