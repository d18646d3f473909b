"""The registries of defenses, attacks and evaluations: names to entries, and who is notified of new ones.

Importing this module does not import torch; reading a registry imports everything that registers (`discovery`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from bench.core.discovery import discover
from bench.core.errors import UsageError, did_you_mean
from bench.core.records import Attack, Defense, Evaluation, Registered
from bench.core.user_code import broken_plugins

T = TypeVar("T", bound=Registered)
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Registry(Generic[T]):
    """Names to entries. Refuses duplicates; suggests the nearest name for an unknown one."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._listeners: list[Callable[[T], None]] = []

    def add(self, entry: T) -> None:
        """Register an entry and notify the listeners.

        Raises:
            UsageError: bad name, no source, or the name is taken by a function of another file.
        """
        if not NAME.fullmatch(entry.name):
            raise UsageError(f"{self.kind} {entry.name!r}: expected a name matching {NAME.pattern}. Rename it.")
        if not entry.source.strip():
            raise UsageError(f'{self.kind} {entry.name!r}: expected source="paper, section", got nothing. Name it.')
        old = self._entries.get(entry.name)
        if old and source_file(old.function) != source_file(entry.function):
            raise UsageError(
                f"{self.kind} {entry.name!r}: expected a new name, got one that {source_file(old.function)} has "
                f"registered. Rename the one in {source_file(entry.function)}."
            )
        self._entries[entry.name] = entry
        for listener in self._listeners:
            listener(entry)

    def subscribe(self, listener: Callable[[T], None]) -> None:
        """Call a listener with every entry: those registered already, now, and each later one when it registers."""
        self._listeners.append(listener)
        for entry in list(self._entries.values()):
            listener(entry)

    def get(self, name: str, where: str = "") -> T:
        """Return the entry of that name.

        Args:
            name: of the entry.
            where: what an error message begins with; "": the kind.

        Raises:
            UsageError: no such entry; the message names the nearest one.
        """
        discover()
        if name not in self._entries:
            hint = " ".join([did_you_mean(name, self._entries), *broken_plugins()])
            raise UsageError(f"{where or self.kind}: expected a registered {self.kind}, got {name!r}. {hint}")
        return self._entries[name]

    def __contains__(self, name: str) -> bool:
        discover()
        return name in self._entries

    def __iter__(self) -> Iterator[T]:
        discover()
        return iter(sorted(self._entries.values(), key=lambda e: e.name))


defenses: Registry[Defense] = Registry("defense")
attacks: Registry[Attack] = Registry("attack")
evaluations: Registry[Evaluation] = Registry("evaluation")


def source_file(function: Callable[..., Any]) -> str:
    """Return the path of the file in which a function is written."""
    return inspect.unwrap(function).__code__.co_filename
