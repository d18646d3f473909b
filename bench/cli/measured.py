"""Save what an instrument measured, with the command, commit, machine and versions it came from."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from bench.core.files import write_text


def save_measured(path: Path, record: Mapping[str, object], cpu_seconds: float, packages: Iterable[str] = ()) -> None:
    """Write a record as JSON, with where it comes from under "measured"; the file is replaced as a whole.

    "measured" holds `command` (without places of this machine), `commit` (with "+" if files had been changed), `date`
    (UTC), `machine`, `seconds` (CPU time) and `versions` by package.

    Args:
        path: of the file; its folder is made.
        record: plain data.
        cpu_seconds: that measuring took.
        packages: optional ones that took part; the versions of those that are installed are written too.
    """
    import torch

    from bench.running.environment import command_line, environment
    from bench.training.execution import ExecutionConfig

    where = environment(torch.device("cpu"), [], ExecutionConfig())
    versions = {
        "bench": where.bench,
        "python": where.python,
        "torch": where.torch,
        **where.packages,
        **_versions(packages),
    }
    measured = {
        "command": command_line(),
        "commit": where.commit + ("+" if where.dirty else ""),
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{where.platform}, CPU, threads: {where.threads}",
        "seconds": round(cpu_seconds, 1),
        "versions": versions,
    }
    write_text(path, json.dumps({**record, "measured": measured}, indent=1, ensure_ascii=False) + "\n")


def _versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
