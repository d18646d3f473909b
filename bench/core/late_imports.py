"""Imports inside functions of included files: which of them would find another file's helper."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

from bench.core.errors import UsageError


def refuse_late_imports(path: Path, files: Iterable[Path], clashing: set[str]) -> None:
    """Refuse an import inside a function that would give the module of another included file.

    Args:
        path: the included file.
        files: it and the modules that importing it has loaded.
        clashing: modules of which another included file has loaded one of the same name.

    Raises:
        UsageError: there is one.
    """
    tops = {name.partition(".")[0] for name in clashing}
    for file in files if tops else ():
        for function in ast.walk(ast.parse(file.read_bytes())):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for node in ast.walk(function):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if late := tops & {name.partition(".")[0] for name in names}:
                    raise UsageError(
                        f"--include {path}: expected helper modules with names of their own, got an import of "
                        f"{min(late)} inside {function.name}, which another included file has loaded from another "
                        "folder. Rename it, or import it at the top."
                    )
