"""Which code a process runs, so that a worker whose bench is another one computes nothing."""

from __future__ import annotations

import functools
from importlib import resources
from pathlib import Path

from bench.core.errors import IntegrityError
from bench.core.hashing import sha256, sha256_of


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
