"""What a store knows of cells, each asked for once where the answer cannot change."""

from __future__ import annotations

from bench.store.records import CellStatus
from bench.store.store import Store


class KnownCells:
    """Remembers the cells that are finished.

    Args:
        store: of the result folder.
        still: whether it is taken to stay as it is, so that what is not finished is remembered as well.
    """

    def __init__(self, store: Store, still: bool) -> None:
        self._store, self._still = store, still
        self._states: dict[str, CellStatus | None] = {}
        self._lacking: dict[str, bool] = {}

    def state(self, cell: str) -> CellStatus | None:
        """Return how far a cell is, None if it was never claimed.

        Args:
            cell: its id.

        Raises:
            IntegrityError: the record was changed outside bench.
        """
        if cell in self._states:
            return self._states[cell]
        found = self._store.status_of(cell)
        if self._still or (found is not None and found.status == "done"):
            self._states[cell] = found
        return found

    def forget(self, cell: str) -> None:
        """Look a cell up again when it is asked for next.

        Args:
            cell: its id.
        """
        self._states.pop(cell, None)

    def lacks_images(self, cell: str) -> bool:
        """Tell whether some of a finished cell's images were left out when the folder was packed."""
        if cell not in self._lacking:
            self._lacking[cell] = self._store.lacks_images(cell)
        return self._lacking[cell]
