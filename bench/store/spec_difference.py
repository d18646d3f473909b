"""What differs between the specs of two cells, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

SOURCES_NAMED: Final = 8  # of the changed sources in one line


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return in words what differs between two cells' specs: why a stored result does not serve.

    Changed sources are one entry, by name: "sources changed: my_defense.py".
    """
    found: list[str] = []
    edited: set[str] = set()
    for path, a, b in differences(old, new):
        if "sources" in path[:-1]:
            edited.add(path[-1])
        else:
            found.append(f"{'.'.join(path)}: {_short(a)} → {_short(b)}")
    return [*found, *([f"sources changed: {listing(edited)}"] if edited else [])]


def listing(sources: set[str]) -> str:
    """Return the names of source files in order, the first `SOURCES_NAMED` of them.

    Args:
        sources: their names.
    """
    names = sorted(sources)
    more = f" and {len(names) - SOURCES_NAMED} more" if len(names) > SOURCES_NAMED else ""
    return ", ".join(names[:SOURCES_NAMED]) + more


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield path, old value and new value of every leaf that differs; None: absent."""
    for name in sorted(old.keys() | new.keys()):
        a, b, path = old.get(name), new.get(name), (*prefix, name)
        if isinstance(a, dict) and isinstance(b, dict):
            yield from differences(a, b, path)
        elif a != b:
            yield path, a, b


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
