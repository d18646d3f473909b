"""Find defenses, attacks and evaluations: import the modules whose decorators register them.

Entries come from four places: a file in `models/defenses/`, `attacks/` or `bench/evaluations/`; an entry point of an
installed package (groups `bench.defenses`, `bench.attacks`, `bench.evaluations`); `--include FILE.py`; a decorator in
running code. Importing this module does not import torch.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Final

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
        for point in importlib.metadata.entry_points(group=group):
            point.load()


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
    name = f"bench_include_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"--include: expected a file ending in .py, got {str(path)!r}. Rename it.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except UsageError:
        del sys.modules[name]
        raise
    except Exception as error:
        del sys.modules[name]
        raise UsageError(
            f"--include {path}: expected a file that imports, got {type(error).__name__}: {error}. "
            f"Try `python {path.name}` beside it."
        ) from error
    return module
