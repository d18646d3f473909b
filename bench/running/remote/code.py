"""Which code a process runs, so that a worker whose bench or plug-ins are other ones computes nothing."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path

from bench.core import user_code
from bench.core.errors import IntegrityError
from bench.core.hashing import sha256, sha256_of
from bench.running.cells import Hashed
from bench.running.tasks import Task, functions_of


@functools.cache
def code_digest() -> str:
    """Return the SHA-256 over the Python and TOML files of bench, wherever it is installed."""
    found = list[str]()
    for package in ("bench", "bench.models", "bench.attacks"):
        folder = Path(str(resources.files(package)))
        for path in sorted({*folder.rglob("*.py"), *folder.rglob("*.toml")}):
            name = path.relative_to(folder).as_posix()
            if package != "bench" or name.partition("/")[0] not in ("models", "attacks", "reports"):
                found.append(f"{package} {name} {sha256(path)}")
    return sha256_of("\n".join(found).encode())


def require_same_code(digest: str) -> None:
    """Refuse to compute for a driver of another bench.

    Args:
        digest: the driver's.

    Raises:
        IntegrityError: it is another.
    """
    if digest != code_digest():
        raise IntegrityError(
            f"a worker: expected the driver's bench, whose code has SHA-256 {digest[:12]}, got {code_digest()[:12]}. "
            "Install the same version on every node."
        )


def plugins_of(task: Task, hashed: Hashed) -> dict[str, str]:
    """Return the plug-ins whose functions a task calls.

    Args:
        task: what is computed.
        hashed: hashes source files.

    Returns:
        Distribution to the SHA-256 over what the keys of cells count of it.
    """
    called = dict[str, list[Callable[..., object]]]()
    for function in functions_of(task):
        origin = user_code.origin_of(function)
        if origin is not None and origin.kind == "plug-in":
            called.setdefault(origin.name, []).append(function)
    return {
        name: sha256_of(json.dumps(hashed(functions, (), None), sort_keys=True).encode())
        for name, functions in sorted(called.items())
    }


def require_same_plugins(asked: Mapping[str, str], task: Task, hashed: Hashed) -> None:
    """Refuse to compute for a driver whose plug-ins are other ones.

    Args:
        asked: the driver's, see `plugins_of`.
        task: what is computed.
        hashed: hashes source files.

    Raises:
        IntegrityError: one of them is another.
    """
    found = plugins_of(task, hashed) if asked else {}
    if other := [name for name, digest in asked.items() if found.get(name) != digest]:
        raise IntegrityError(
            f"a worker: expected the driver's plug-in {other[0]}, got another one. Install the same version of it, and "
            "of what it imports, on every node."
        )
