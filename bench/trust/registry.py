"""The registered checks: every module in `bench/trust/checks/` is imported, and its decorators register."""

from __future__ import annotations

import functools
import importlib
import pkgutil
import re
from collections.abc import Callable
from typing import Final

from bench.core.errors import UsageError
from bench.core.records import Track
from bench.trust.evidence import Evidence
from bench.trust.records import NEEDS_MORE, Check, Finding, Severity

PACKAGE: Final = "bench.trust.checks"
ORDER: Final = "VCGAEBTDR"  # of the families, as the protocol lists them
_CHECKS: dict[str, Check] = {}


def check(
    name: str,
    *,
    title: str,
    severity: Severity,
    source: str,
    needs: str = "",
    tracks: tuple[Track, ...] = ("deterministic", "randomised"),
) -> Callable[[Callable[[Evidence], Finding]], Callable[[Evidence], Finding]]:
    """Register a check: `f(evidence) -> Finding`, a pure function.

    Args:
        name: a letter and a number, e.g. "G3".
        title: what must hold, in a few words.
        severity: "validity", "adequacy" or "soft".
        source: paper and place.
        needs: "" or one of `NEEDS_MORE`: what a model in memory lacks.
        tracks: of the models that it is about.

    Returns:
        The decorator, which returns the function unchanged.

    Raises:
        UsageError: a malformed name or need, or a name that is taken by another function.
    """
    if not re.fullmatch(f"[{ORDER}][1-9][0-9]*", name):
        raise UsageError(f"check {name!r}: expected one of the letters {ORDER} and a number. Rename it.")
    if needs and needs not in NEEDS_MORE:
        raise UsageError(f"check {name}: expected needs among {list(NEEDS_MORE)}, got {needs!r}. Leave it out.")

    def register(function: Callable[[Evidence], Finding]) -> Callable[[Evidence], Finding]:
        old = _CHECKS.get(name)
        if old is not None and old.function.__module__ != function.__module__:
            raise UsageError(
                f"check {name}: expected a new name, got one of {old.function.__module__}. Number it otherwise."
            )
        _CHECKS[name] = Check(name, title, severity, source, function, needs, tracks)
        return function

    return register


@functools.cache
def _import_all() -> None:
    for info in pkgutil.iter_modules(importlib.import_module(PACKAGE).__path__):
        importlib.import_module(f"{PACKAGE}.{info.name}")


def checks() -> tuple[Check, ...]:
    """Return all checks, in the protocol's order."""
    _import_all()
    return tuple(sorted(_CHECKS.values(), key=lambda c: (ORDER.index(c.name[0]), int(c.name[1:]))))
