"""What a pack holds that another one, written in its place, would lack: it may be the last copy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.core.errors import UsageError

MOST_BYTES = 1 << 20  # of a list of files


def refuse_loss(listing: Path, facts: Mapping[str, Any], weights: Iterable[str]) -> None:
    """Refuse to write a pack over one that holds more: other results, weights or adversarial examples.

    Args:
        listing: `pack.json` of the pack that is there; a file that is not there or cannot be read is no pack.
        facts: of the new pack: `suite`, `data` and `pictures`, as they will be listed.
        weights: names of the weights that the new pack will hold.

    Raises:
        UsageError: it does; what would be lost is named.
    """
    old = _read(listing)
    if lost := [*_lost(old, facts, set(weights))] if old else []:
        raise UsageError(
            f"{listing.parent}: expected no pack that holds more than the new one, got one with {lost[0]}. Pack that "
            "again too, choose another --to, or remove the old pack first."
        )


def _lost(old: Mapping[str, Any], new: Mapping[str, Any], weights: set[str]) -> Iterable[str]:
    """Yield in words what the new pack lacks of the old one."""
    for name in ("suite", "data"):
        if old.get(name) != new[name]:
            yield f"results of another {name} ({str(old.get(name))[:40]!r}, not {new[name]!r})"
    if lacking := set(_members(old, "weights.zip")) - weights:
        yield f"weights of {len(lacking)} models that it would lack (--weights)"
    if old.get("pictures") is True and not new["pictures"]:
        yield "all adversarial examples (--pictures)"


def _members(listing: Mapping[str, Any], archive: str) -> list[str]:
    archives = listing.get("archives")
    found = archives.get(archive) if isinstance(archives, dict) else None
    members = found.get("members") if isinstance(found, dict) else None
    return list(members) if isinstance(members, dict) else []


def _read(path: Path) -> dict[str, Any]:
    """Return what a list says; {} where there is none that can be read."""
    try:
        found = json.loads(path.read_bytes()) if path.is_file() and path.stat().st_size <= MOST_BYTES else {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
