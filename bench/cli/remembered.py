"""What the shipped entries say of themselves, kept from one `list` to the next: reading it imports no torch."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.core import discovery, files
from bench.core.cache_folder import cache_folder, is_ours
from bench.core.errors import MachineError
from bench.core.version import VERSION

KEPT: Final = ".entries"  # hidden, so that no data set is looked for in it


def remembered(kind: str, found: Callable[[], list[dict[str, object]]]) -> list[dict[str, object]]:
    """Return the records of a registry, from the cache folder if no file of bench has changed since they were kept.

    Nothing is read or kept where other packages have entries of their own, or where torch is loaded: nothing is saved
    there, and files may have registered entries of theirs.

    Args:
        kind: name of the registry.
        found: makes the records, as plain data; imports everything that registers.
    """
    if "torch" in sys.modules or any(importlib.metadata.entry_points(group=group) for group in discovery.ENTRY_POINTS):
        return found()
    path = cache_folder() / KEPT / f"{kind}-{_sources()}.json"
    with contextlib.suppress(OSError, ValueError):
        digest, _, text = path.read_text(encoding="utf-8").partition("\n")
        if digest == _digest(text) and is_ours(path):
            records: list[dict[str, object]] = json.loads(text)
            return records
    text = json.dumps(found())
    with contextlib.suppress(MachineError):
        for old in path.parent.glob(f"{kind}-*.json"):
            files.remove(old)
        files.write_text(path, f"{_digest(text)}\n{text}")
    kept: list[dict[str, object]] = json.loads(text)
    return kept


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sources() -> str:
    """Return a SHA-256 over every Python file of bench: on which a record depends is not worth finding out."""
    digest = hashlib.sha256(VERSION.encode())
    folders = [Path(__file__).parents[1]]
    folders += [Path(importlib.import_module(name).__path__[0]) for name in discovery.PACKAGES]
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder)}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]
