"""Names of modules in earlier versions, kept alive for imports and for the configurations of old runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "checkpoint": ("runs.checkpoint", "programs.random_state"),
    "comparison": ("runs.comparison",),
    "compiled": ("compilation.elbos",),
    "build": ("runs.build",),
    "config": ("runs.config",),
    "distributed": ("parallel.collectives",),
    "experiment": (
        "runs.run",
        "runs.restore",
        "runs.resume",
        "runs.misfit",
        "programs.random_state",
        "runs.build",
        "api",
    ),
    "guides.cholesky_normal": ("distributions.cholesky_normal",),
    "guides.low_rank_normal": ("distributions.low_rank_normal",),
    "imputation": ("analysis.imputation",),
    "likelihoods.in_double": ("distributions.in_double",),
    "marginal.density": ("programs.density",),
    "marginal.weights": ("programs.trace", "programs.chunks", "programs.log_weights"),
    "metrics": ("runs.metrics",),
    "optim": ("training.optim",),
    "plots": ("runs.plots",),
    "precision": ("training.precision",),
    "report": ("runs.report", "runs.evaluation", "runs.analyses", "runs.estimation", "runs.figures"),
    "run_directory": ("commands.guard", "runs.directory"),
    "svi": ("training.svi",),
    "tracing": ("compilation.compiled", "compilation.gradients"),
    "trainer": ("training.trainer",),
    "validation": ("training.validation_elbo",),
}
"""Maps each old module to the modules that hold its content now; classes in configurations are in the first."""


def renamed(config: Any) -> Any:
    """Translate each `_target_` in a configuration to its present name.

    Args:
        config: plain containers, from a checkpoint or a YAML file.
    """
    if isinstance(config, list):
        return [renamed(value) for value in config]
    if not isinstance(config, dict):
        return config
    return {
        key: _new_name(value) if key == "_target_" and isinstance(value, str) else renamed(value)
        for key, value in config.items()
    }


def _new_name(target: str) -> str:
    package, _, rest = target.partition(".")
    module, _, name = rest.rpartition(".")
    if package != "pyro_vae" or module not in MOVED:
        return target
    return f"pyro_vae.{MOVED[module][0]}.{name}"


class OldNames(MetaPathFinder, Loader):
    """Makes each old module in `MOVED` importable, as a module that looks up names in the new ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find an old module; Python asks when no file has that name."""
        package, _, module = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == "pyro_vae" and module in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Create an empty module with a `__getattr__` (PEP 562)."""
        module = ModuleType(spec.name)
        homes = MOVED[spec.name.partition(".")[2]]

        def look_up(name: str) -> Any:
            if not name.startswith("__"):
                for home in homes:
                    content = vars(import_module(f"pyro_vae.{home}"))
                    if name in content:
                        return content[name]
            raise AttributeError(f"module {spec.name!r} has no attribute {name!r}")

        module.__dict__["__getattr__"] = look_up
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run nothing: `create_module` has done it all."""


def keep_old_names() -> None:
    """Let `import` find the modules in `MOVED`; a second call has no effect."""
    if not any(isinstance(finder, OldNames) for finder in sys.meta_path):
        sys.meta_path.append(OldNames())
