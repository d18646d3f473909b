"""Everything that is wrong with what a user wrote, found in one go."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.core.errors import UsageError


class Problems:
    """Collects errors until all parts have been looked at."""

    def __init__(self) -> None:
        self._found: list[str] = []

    @contextlib.contextmanager
    def found_in(self) -> Iterator[None]:
        """Keep the errors that the block raises; what follows the first of them in the block is left out."""
        try:
            yield
        except UsageError as error:
            self._found += error.messages

    def add(self, message: str) -> None:
        """Keep an error.

        Args:
            message: one line of the usual form.
        """
        self._found.append(message)

    def raise_if_any(self) -> None:
        """Raise what was found, each once.

        Raises:
            UsageError: one thing, or several.
        """
        if self._found:
            raise UsageError(*dict.fromkeys(self._found))
