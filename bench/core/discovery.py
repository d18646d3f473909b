"""Find defenses, attacks and evaluations: import the modules whose decorators register them.

Entries come from four places: a file in `models/defenses/`, `attacks/` or `bench/evaluations/`; an entry point of an
installed package (groups `bench.defenses`, `bench.attacks`, `bench.evaluations`); `--include FILE.py`; a decorator in
running code. Importing this module does not import torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Final

from bench.core import user_code
from bench.core.errors import UsageError

PACKAGES: Final = ("bench.models.defenses", "bench.attacks", "bench.evaluations")
ENTRY_POINTS: Final = ("bench.defenses", "bench.attacks", "bench.evaluations")

_discovered = False


def discover() -> None:
    """Import every shipped and installed entry, once; the registries call this before they are read."""
    global _discovered
    if _discovered:
        return
    _discovered = True
    for package in PACKAGES:
        for info in pkgutil.iter_modules(importlib.import_module(package).__path__):
            if not info.ispkg and not info.name.startswith("_"):
                importlib.import_module(f"{package}.{info.name}")
    for group in ENTRY_POINTS:
        user_code.load_plugins(group)


def include(path: str | Path) -> ModuleType:
    """Import a user's file, so that its decorators register. The file is code and runs with full trust.

    Args:
        path: a Python file, imported once per process.

    Returns:
        The module.

    Raises:
        UsageError: no such file, or it fails to import.
    """
    discover()
    path = Path(path).resolve()
    if not path.is_file():
        raise UsageError(f"--include: expected a Python file, got {str(path)!r}, which is none. Check the path.")
    return user_code.load_file(path)
