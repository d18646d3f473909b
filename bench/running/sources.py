"""Hash the source that a cell's result depends on."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# Packages whose source is part of a cell's key when a function of the cell reaches it.
_TRACKED = ("bench.models", "bench.attacks", "bench.evaluations")
_BOOKKEEPING = ("bench.core.discovery",)


def sources(functions: Iterable[Callable[..., Any]]) -> dict[str, str]:
    """Return module name to SHA-256 of every source file that the functions' results depend on.

    Followed are imports, as written in the source, into models, attacks and evaluations; a user's own file counts
    with the files beside it that it imports. Torch counts by its version, elsewhere in the key.
    """
    files: dict[str, Path] = {}
    for function in functions:
        module = inspect.getmodule(inspect.unwrap(function))
        if module is not None and getattr(module, "__file__", None):
            _follow(module.__name__, Path(str(module.__file__)), files)
    # A user's module is loaded under a name that holds its path's hash: name it by its stem, paths are no content.
    return {
        (name if name.startswith("bench.") else path.stem): hashlib.sha256(path.read_bytes()).hexdigest()
        for name, path in sorted(files.items())
    }


def _follow(name: str, path: Path, files: dict[str, Path]) -> None:
    if name in files or name.startswith(_BOOKKEEPING):
        return
    files[name] = path
    for imported in _imports(path, name):
        found = _locate(imported, name, path)
        if found is not None:
            _follow(imported, found, files)


def _locate(module: str, importer: str, path: Path) -> Path | None:
    """Return the file of a module whose source counts, None for libraries and bookkeeping."""
    if module.startswith(_TRACKED):
        spec = importlib.util.find_spec(module)
        return Path(spec.origin) if spec and spec.origin else None
    beside = path.parent / f"{module.replace('.', '/')}.py"
    return beside if not importer.startswith("bench.") and not module.startswith("bench") and beside.is_file() else None


def _imports(path: Path, name: str) -> list[str]:
    """Return the modules that a source file imports, absolute names, in order."""
    return _imports_of(path.read_text(encoding="utf-8"), name, path.name == "__init__.py")


@functools.lru_cache(maxsize=512)
def _imports_of(text: str, name: str, is_package: bool) -> list[str]:
    package = name if is_package else name.rpartition(".")[0]
    names: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                base = f"{parent}.{base}".rstrip(".")
            # `from package import name` may name a sub-module: both are looked up, what is no module has no file.
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return [n for n in dict.fromkeys(names) if n and _is_module(n)]


def _is_module(name: str) -> bool:
    if not name.startswith(_TRACKED):
        return not name.startswith("bench")
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
