"""Orders, blobs and replies as files of a shared folder, each written whole or not at all and named by its SHA-256.

No SQLite file lies there: a network file system has no locks to rely on. Only the driver reads replies into the store.
"""

from __future__ import annotations

from pathlib import Path

from bench.core import files
from bench.core.errors import MachineError
from bench.core.hashing import sha256_of
from bench.running.remote.work import compute

ORDERS, BLOBS, REPLIES = "orders", "blobs", "replies"


class Parts:
    """A folder of orders and what belongs to them.

    Args:
        folder: on a disk that the driver and every worker sees.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, content: bytes) -> str:
        """Write a blob, once per content, and return its SHA-256."""
        return self._write(BLOBS, content)

    def order(self, content: bytes) -> str:
        """Write an order, once per content, and return its SHA-256."""
        return self._write(ORDERS, content)

    def reply(self, order: str) -> bytes | None:
        """Return the reply to an order, None if there is none yet."""
        path = self._path(REPLIES, order)
        return path.read_bytes() if path.is_file() else None

    def work(self, order: str) -> None:
        """Compute an order unless its reply is there; run again after a fault, it writes the same reply.

        Raises:
            MachineError: the order or one of its blobs is not there.
        """
        if not self._path(REPLIES, order).is_file():
            content = self._read(ORDERS, order)
            files.write_bytes(self._path(REPLIES, order), compute(content, lambda sha256: self._read(BLOBS, sha256)))

    def _write(self, kind: str, content: bytes) -> str:
        sha256 = sha256_of(content)
        if not (path := self._path(kind, sha256)).is_file():
            files.write_bytes(path, content)
        return sha256

    def _read(self, kind: str, sha256: str) -> bytes:
        path = self._path(kind, sha256)
        try:
            return path.read_bytes()
        except OSError as error:
            raise MachineError(f"{path}: expected a file of the shared folder, got {error.strerror}.") from error

    def _path(self, kind: str, sha256: str) -> Path:
        return self.folder / kind / sha256
