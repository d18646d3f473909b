"""Orders, blobs and replies as files of a shared folder, each written whole or not at all and named by its SHA-256.

No SQLite file lies there: a network file system has no locks to rely on. Only the driver reads replies into the store.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from bench.core import files
from bench.core.errors import IntegrityError, MachineError
from bench.core.hashing import sha256_of
from bench.running.remote.orders import checked
from bench.running.remote.replies import findings
from bench.running.remote.work import compute, end_worker

PARTS: Final = "parts"  # below the result folder, unless --slurm parts=FOLDER names a shared one
ORDERS, BLOBS, REPLIES, OTHERS = "orders", "blobs", "replies", "contradictions"
_NAME: Final = 64  # digits of a SHA-256; a file that is being written has another name


def parts_folder(out: Path, asked: Mapping[str, str]) -> Path:
    """Return the folder of orders and replies.

    Args:
        out: the result folder.
        asked: the settings of `--slurm`.
    """
    return Path(asked.get("parts") or out / PARTS).resolve()


def work(folder: Path, orders: Iterable[str]) -> None:
    """Compute orders of a folder: a task of the command `work`, and a job of the engine on Slurm.

    Args:
        folder: on a disk that the driver sees.
        orders: their SHA-256; those that have a reply are not computed again.

    Raises:
        MachineError, IntegrityError: an order is not there, or was changed.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # for the children of this process
    parts = Parts(folder)
    try:
        for order in orders:
            parts.work(order)
    finally:
        end_worker()


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

        The first reply counts. One that comes later is dropped if it is equal, times apart, and kept beside if not.

        Raises:
            MachineError: the order is not there.
            IntegrityError: it was changed; the next command writes it anew.
        """
        if self.reply(order) is not None:
            return
        reply = compute(self._read(ORDERS, order), lambda sha256: self._read(BLOBS, sha256))
        if files.write_new(self._path(REPLIES, order), reply):
            return
        first = self.reply(order)
        if first is not None and findings(first) != findings(reply):
            files.write_bytes(self._path(OTHERS, order), reply)

    def drop(self, order: str) -> None:
        """Forget the reply to an order."""
        files.remove(self._path(REPLIES, order))

    def left(self) -> list[str]:
        """Return the orders that have no reply."""
        return sorted(self._names(ORDERS) - self._names(REPLIES))

    def contradictions(self) -> list[str]:
        """Return, in words, each order that was computed twice with different results."""
        return [
            f"order {name[:12]}: expected equal results of two workers, got different ones; the first counts. Compare "
            f"{self._path(REPLIES, name)} and {self._path(OTHERS, name)}, and look at the workers' machines."
            for name in sorted(self._names(OTHERS))
        ]

    def _names(self, kind: str) -> set[str]:
        folder = self.folder / kind
        return {path.name for path in folder.iterdir() if len(path.name) == _NAME} if folder.is_dir() else set()

    def _write(self, kind: str, content: bytes) -> str:
        sha256 = sha256_of(content)
        if not (path := self._path(kind, sha256)).is_file():
            files.write_bytes(path, content)
        return sha256

    def _read(self, kind: str, sha256: str) -> bytes:
        """Return the content of a file; one that was changed is removed, since files that are there are not written.

        Raises:
            MachineError: it is not there.
            IntegrityError: its content is not what its name says.
        """
        path = self._path(kind, sha256)
        try:
            return checked(path.read_bytes(), sha256)
        except OSError as error:
            raise MachineError(f"{path}: expected a file of the shared folder, got {error.strerror}.") from error
        except IntegrityError:
            files.remove(path)
            raise

    def _path(self, kind: str, sha256: str) -> Path:
        return self.folder / kind / sha256
