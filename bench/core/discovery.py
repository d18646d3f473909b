"""Find defenses, attacks and evaluations: import the modules whose decorators register them.

Entries come from four places: a file in `models/defenses/`, `attacks/` or `bench/evaluations/`; an entry point of an
installed package (groups `bench.defenses`, `bench.attacks`, `bench.evaluations`); `--include FILE.py`; a decorator in
running code. Importing this module does not import torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import Final

from bench.core import user_code
from bench.core.errors import UsageError
from bench.core.processes import TRIAL_SECONDS
from bench.core.user_code import Origin

PACKAGES: Final = ("bench.models.defenses", "bench.attacks", "bench.evaluations")
ENTRY_POINTS: Final = ("bench.defenses", "bench.attacks", "bench.evaluations")

_discovered = False


def discover() -> None:
    """Import every shipped and installed entry, once; the registries call this before they are read."""
    _discover(None, TRIAL_SECONDS)


def load(origins: Collection[Origin]) -> None:
    """Import every shipped entry, and third parties' from some places alone, in a process that may end with them.

    Args:
        origins: files and plug-ins.

    Raises:
        UsageError: one fails to import, or is another file by now.
    """
    _discover([o.name for o in origins if o.kind == "plug-in"], None)
    if problems := user_code.broken_plugins():
        raise UsageError(problems[0])
    for origin in origins:
        if origin.kind == "file":
            module = user_code.load_file(Path(origin.name), None)
            if user_code.origin_of_file(module) != origin:
                raise UsageError(
                    f"{origin.name}: expected the file that the command has read, got another, or other modules that "
                    "it imports. Run the command again to use the new one."
                )


def import_shipped() -> None:
    """Import every entry that is shipped."""
    for package in PACKAGES:
        for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if not info.ispkg and not info.name.startswith("_"):
                importlib.import_module(f"{package}.{info.name}")


def _discover(only: Collection[str] | None, seconds: float | None) -> None:
    """Import every shipped entry and the plug-ins of some distributions (None: all), once."""
    global _discovered
    if _discovered:
        return
    _discovered = True
    import_shipped()
    for group in ENTRY_POINTS:
        user_code.load_plugins(group, only, seconds)


def include(path: str | Path, seconds: float = TRIAL_SECONDS) -> ModuleType:
    """Import a user's file, so that its decorators register. The file is code and runs with full trust.

    Args:
        path: a Python file, imported once per process.
        seconds: within which it must have been imported.

    Returns:
        The module.

    Raises:
        UsageError: no such file, or it fails to import.
    """
    discover()
    path = Path(path).resolve()
    if not path.is_file():
        raise UsageError(f"--include: expected a Python file, got {str(path)!r}, which is none. Check the path.")
    return user_code.load_file(path, seconds)
