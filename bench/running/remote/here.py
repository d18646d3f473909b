"""The driver's side of a worker in the same process: what the local engine uses.

The same orders go in as bytes and the same results come out as bytes as with a worker elsewhere. Two things differ:
arrays and weights are found where they are, and each result is taken as it comes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from bench.core.errors import BenchError, Stopped
from bench.core.hashing import sha256_of
from bench.running.remote.included import Included
from bench.running.remote.orders import Order, OrderBook
from bench.running.remote.replies import Failure, Unfinished, from_reply
from bench.running.remote.work import Folders, Worker, compute_by_parts
from bench.running.tasks import Emit, EvaluationTask, Measured, Stop, Task, TrainTask

LARGE: Final = 1 << 10  # bytes; a larger array is named by its SHA-256 and stays where it is


class Here:
    """Computes tasks in this process, and third parties' code in its child; a context manager, which ends the child.

    Args:
        out: the result folder, where weights are and checkpoints are left.
        silent_seconds: how long a child may give no sign of life.
        log: called with a line of a child's output.
    """

    def __init__(self, out: Path, silent_seconds: float, log: Callable[[str], None]) -> None:
        self._at_hand = AtHand()
        self._book = BookHere(self._at_hand, silent_seconds)
        self._worker = Worker(Folders(out / "weights", out / "checkpoints"), log)

    def __enter__(self) -> Here:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child."""
        self.close()

    def close(self) -> None:
        """End the child, if there is one."""
        self._worker.close()

    def compute(self, task: Task, emit: Emit, stop: Stop, *, apart: bool = False) -> None:
        """Compute a task.

        Args:
            task: what is computed.
            emit: called with each result, in order, as it comes.
            stop: asked whether to stop.
            apart: use a child for our own code as well: the last process that computed it has died.

        Raises:
            Stopped: it was asked to.
            BenchError: it cannot be computed.
        """
        with self._at_hand.cleared():
            for order in self._orders(task):
                if stop():
                    raise Stopped("stopped; run the same command to go on.")
                self._carry_out(replace(order, apart=apart), emit, stop)

    def _orders(self, task: Task) -> list[Order]:
        """Return the orders of a task: one for all that is left of it, unless chunks in between are stored."""
        if isinstance(task, TrainTask):
            return [self._book.training(task)]
        if not isinstance(task, EvaluationTask):
            return [self._book.taking_over(task)]
        count = -(-len(task.split) // task.evaluation.chunk)
        parts = list(ranges(number for number in range(count) if number not in task.done))
        *orders, last = self._book.evaluation(task, parts or [(0, 0)])
        return [*orders, replace(last, summary=True)]

    def _carry_out(self, order: Order, emit: Emit, stop: Stop) -> None:
        whole, content = order.summary or order.part != "evaluation", order.to_bytes()
        asked = sha256_of(content)

        def take(reply: bytes) -> None:
            for result in from_reply(reply, asked, order.cell):
                if isinstance(result, Failure | Unfinished):  # errors are raised here, and no time is set
                    raise BenchError(f"cell {order.cell[:12]}: expected its results, got {result}. Report this.")
                if whole or not isinstance(result, Measured):
                    emit(result)

        compute_by_parts(content, self._worker, self._at_hand, take, stop)


def ranges(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the runs of consecutive numbers: the first one, and the one behind the last.

    Args:
        numbers: ascending.
    """
    first = behind = None
    for number in numbers:
        if number != behind:
            if first is not None and behind is not None:
                yield first, behind
            first = number
        behind = number + 1
    if first is not None and behind is not None:
        yield first, behind


class AtHand:
    """What the orders of a task name, kept in this process while it is computed."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._arrays: dict[str, np.ndarray] = {}

    def put(self, content: bytes) -> str:
        """Keep a blob and return its SHA-256."""
        sha256 = sha256_of(content)
        self._blobs[sha256] = content
        return sha256

    def keep(self, array: np.ndarray, sha256: str) -> None:
        """Keep an array of a SHA-256."""
        self._arrays[sha256] = array

    def blob(self, sha256: str) -> bytes:
        """Return the blob of a SHA-256."""
        return self._blobs[sha256]

    def array(self, sha256: str) -> np.ndarray:
        """Return the array of a SHA-256: the very one, not a copy."""
        return self._arrays[sha256]

    @contextlib.contextmanager
    def cleared(self) -> Iterator[None]:
        """Forget everything behind the block."""
        try:
            yield
        finally:
            self._blobs.clear()
            self._arrays.clear()


class BookHere(OrderBook):
    """Writes the orders of a worker in this process.

    Args:
        at_hand: keeps what they name.
        silent: see `Order`.
    """

    seconds = 0.0
    large = LARGE

    def __init__(self, at_hand: AtHand, silent: float) -> None:
        super().__init__(at_hand.put, Included(), silent)
        self._at_hand = at_hand

    def _plugins(self, task: Task) -> dict[str, str]:
        return {}  # the worker is this process

    def _weights(self, task: EvaluationTask) -> str:
        return task.sha256

    def _checkpoint(self, task: TrainTask) -> str:
        return ""

    def _kept(self, array: np.ndarray) -> str:
        sha256 = super()._kept(array)
        self._at_hand.keep(array, sha256)
        return sha256

    def _put_array(self, array: np.ndarray) -> str:
        """Return the SHA-256 that the array's file would have, without writing it."""
        digest = _Digest()
        np.lib.format.write_array(digest, array, allow_pickle=False)
        return digest.sha256.hexdigest()


class _Digest:
    """Takes what is written as a file does, and hashes it."""

    def __init__(self) -> None:
        self.sha256 = hashlib.sha256()

    def write(self, content: bytes) -> int:
        self.sha256.update(content)
        return len(content)
