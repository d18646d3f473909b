"""Where and when jobs run: one file per engine.

An engine is a module with `run(context: RunContext) -> Outcome`. It gets the jobs of `context.plan` from a `Schedule`,
decides which one is next, and goes through `attempt`, which claims a cell, keeps its lease alive, has it computed by
what the engine gives (`Computes`) and stored by `run_job`, and records how it ended. An engine itself has to provide:

- order: a job only after everything in `Schedule.inputs` is done or has failed for good;
- waiting: for jobs that another process holds, until they are done or their holder is dead;
- bindings: where it is the owner of the plan, `store.plans.bind_all` for cells once `CellIndex.cell` knows it;
- stopping: `context.raise_if_stopped()` between two jobs;
- the outcome: failures by job; a failure leaves the other jobs alone.

It may name a package that it `NEEDS`, and whether further processes of the same command work beside it (`HELPERS`).

All share `remote`: workers get orders and give results as bytes, and have no store. The local engine's worker is in the
same process (`remote/here.py`); those of clusters are reached by a `Transport`.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from types import ModuleType

from bench.core.errors import MachineError, UsageError, did_you_mean


def names() -> list[str]:
    """Return the engines by name: the modules of this package."""
    return sorted(info.name for info in pkgutil.iter_modules(__path__))


def load(name: str) -> ModuleType:
    """Return an engine's module.

    Args:
        name: as `--engine` has it.

    Raises:
        UsageError: there is no such engine.
        MachineError: the package that it needs is not installed.
    """
    if name not in names():
        raise UsageError(f"--engine: expected {', '.join(names())}, got {name!r}. {did_you_mean(name, names())}")
    module = importlib.import_module(f"{__name__}.{name}")
    package = getattr(module, "NEEDS", "")
    if package and importlib.util.find_spec(package) is None:
        raise MachineError(
            f"--engine {name}: expected the package {package}, got none. Install the extra: "
            f"pip install 'adversarial-bench[{name}]'."
        )
    return module
