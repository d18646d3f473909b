"""Where the files of modules lie, found without importing them."""

from __future__ import annotations

import importlib.machinery
import pkgutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.core import user_code


def file_of(module: ModuleType | None) -> Path | None:
    """Return the file that a module was loaded from, None if it has none."""
    file = getattr(module, "__file__", None)
    return Path(file).resolve() if isinstance(file, str) and Path(file).is_file() else None


def find(name: str, record: user_code.LoadedCode | None) -> Path | None:
    """Return the file of a third party's module, without importing anything; None if there is none.

    Args:
        name: dotted.
        record: of the file or plug-in that imports it; None: it is looked for among loaded modules and on `sys.path`.
    """
    if record is not None and name in record.modules:
        return record.modules[name]
    search: Sequence[str] | None = [str(record.folder), *sys.path] if record and record.folder else None
    if search is None and (found := file_of(sys.modules.get(name))):
        return found
    parts = name.split(".")
    for length in range(1, len(parts) + 1):
        spec = _spec(".".join(parts[:length]), search)
        if spec is None:
            return None
        if length == len(parts):
            return Path(spec.origin).resolve() if spec.origin and Path(spec.origin).is_file() else None
        search = list(spec.submodule_search_locations or ())
    return None


def _spec(name: str, search: Sequence[str] | None) -> importlib.machinery.ModuleSpec | None:
    if search is not None and (spec := _spec_in(name, search)):
        return spec
    for finder in sys.meta_path:  # installed in place: setuptools has a finder of its own
        spec = finder.find_spec(name, None) if "." not in name else None
        if spec is not None:
            return spec
    return None


def _spec_in(name: str, search: Sequence[str]) -> importlib.machinery.ModuleSpec | None:
    """Return where a module lies in some folders; unlike PathFinder also one whose parent package is not imported."""
    portions: list[str] = []
    for folder in search:
        finder: Any = pkgutil.get_importer(folder)
        spec: importlib.machinery.ModuleSpec | None = finder and finder.find_spec(name)
        if spec is not None and spec.loader is not None:
            return spec
        portions += (spec and spec.submodule_search_locations) or ()
    if not portions:
        return None
    namespace = importlib.machinery.ModuleSpec(name, None, is_package=True)
    namespace.submodule_search_locations = portions
    return namespace
