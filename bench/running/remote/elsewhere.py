"""The driver's side: tasks are cut into orders, and their results are taken as if they were computed here."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Final

from bench.core import files
from bench.core.errors import BenchError, MachineError, Stopped
from bench.core.hashing import sha256_of
from bench.running.remote.here import Here
from bench.running.remote.orders import Order, OrderBook
from bench.running.remote.replies import Failure, Result, Unfinished, from_reply
from bench.running.remote.transport import Ticket, Transport
from bench.running.tasks import Emit, EvaluationTask, Measured, Stop, Task, TrainTask
from bench.store.packed_chunk import PackedChunk

ANSWER_SECONDS: Final = 3600.0  # without any reply, the cluster counts as gone
POLL_SECONDS: Final = 0.2


class Elsewhere:
    """Computes trainings and evaluations by a transport; weights that are taken over stay in this process.

    A context manager, which ends the child of this process.

    Args:
        transport: carries the orders.
        book: writes them.
        here: what computes in this process.
        patience: seconds without any reply after which the cluster counts as gone.
    """

    def __init__(self, transport: Transport, book: OrderBook, here: Here, patience: float = ANSWER_SECONDS) -> None:
        self._transport, self._book, self._here, self._patience = transport, book, here, patience
        self._lock, self._heard = threading.Lock(), time.monotonic()
        self._needed = Counter[str]()  # SHA-256 of blobs to the tasks that have orders under way which name it

    def __enter__(self) -> Elsewhere:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child of this process."""
        self._here.close()

    def compute(self, task: Task, emit: Emit, stop: Stop, *, apart: bool = False) -> None:
        """Have a task computed; called from several threads at once.

        Args:
            task: what is computed.
            emit: called with each result, in the calling thread.
            stop: asked all the time whether to stop.
            apart: without meaning: every order is computed in another process.

        Raises:
            Stopped: it was asked to.
            BenchError: it cannot be computed.
        """
        if isinstance(task, EvaluationTask):
            self._evaluate(task, emit, stop)
        elif isinstance(task, TrainTask):
            self._train(task, emit, stop)
        else:
            with self._lock:
                self._here.compute(task, emit, stop, apart=True)

    def _evaluate(self, task: EvaluationTask, emit: Emit, stop: Stop) -> None:
        count = -(-len(task.split) // task.evaluation.chunk)
        left = [number for number in range(count) if number not in task.done]
        with self._written(lambda: self._book.evaluation(task, [(n, n + 1) for n in left])) as orders:
            for result in self._results(orders, stop):
                if not isinstance(result, Measured | Unfinished | Failure):
                    emit(result)
        if task.evaluation.summary is None:
            emit(Measured())
            return
        with self._written(lambda: [self._book.summary(task)]) as orders:
            for result in self._results(orders, stop):
                if isinstance(result, Measured):
                    emit(result)

    def _train(self, task: TrainTask, emit: Emit, stop: Stop) -> None:
        """Train part by part, each from the checkpoint of the last one, wherever that was computed.

        Raises:
            MachineError: a part has not done a single step.
        """
        unfinished = True
        while unfinished:
            unfinished = False
            with self._written(lambda: [self._book.training(task)]) as orders:
                for result in self._results(orders, stop):
                    if isinstance(result, Unfinished):
                        unfinished = True
                        if result.checkpoint is None:
                            raise MachineError(
                                f"{task.label}: expected a training step within a part, got none. Run again."
                            )
                        files.write_bytes(task.checkpoint, result.checkpoint)
                    elif not isinstance(result, Failure):
                        emit(result)

    @contextlib.contextmanager
    def _written(self, write: Callable[[], list[Order]]) -> Iterator[list[Order]]:
        """Write orders for the block; behind it the blobs are dropped that no other order under way names.

        Args:
            write: returns the orders.

        Yields:
            The orders.
        """
        with self._lock:
            orders = write()
            named = frozenset[str]().union(*(order.blobs for order in orders))
            self._needed.update(named)
        try:
            yield orders
        finally:
            with self._lock:
                self._needed.subtract(named)
                self._needed = +self._needed
                self._transport.keep_only(self._needed.keys() | self._book.remembered)

    def _results(self, orders: list[Order], stop: Stop) -> Iterator[Result]:
        """Send orders.

        Yields:
            Their results as they come.

        Raises:
            Stopped: it was asked to.
            BenchError: one of them has failed.
        """
        waiting = [(order, self._transport.submit(order.to_bytes())) for order in orders]
        self._heard = time.monotonic()  # before, nobody may have been asked for as long as cells were held elsewhere
        try:
            while waiting:
                if stop():
                    raise Stopped("stopped; chunks under way are computed again. Run the same command to go on.")
                order, ticket = waiting.pop(0)
                reply = self._reply(ticket)
                if reply is None:
                    waiting.append((order, ticket))
                    continue
                yield from self._opened(reply, order, ticket)
        finally:
            for _, ticket in waiting:
                self._transport.cancel(ticket)

    def _opened(self, reply: bytes, order: Order, ticket: Ticket) -> Iterator[Result]:
        """Yield the results of a reply.

        Raises:
            BenchError: it holds a failure, is damaged, or answers another order; it is not read again.
        """
        try:
            for result in from_reply(reply, sha256_of(order.to_bytes()), order.cell):
                if isinstance(result, Failure):
                    raise result.error()
                if isinstance(result, PackedChunk):
                    result.require_readable(order.cell)
                yield result
        except BenchError:
            self._transport.drop(ticket)
            raise

    def _reply(self, ticket: Ticket) -> bytes | None:
        """Look for a reply for a moment.

        Returns:
            The reply; None if there is none yet.

        Raises:
            MachineError: there has been none for too long, to whichever order.
        """
        reply = self._transport.answer(ticket, POLL_SECONDS)
        now = time.monotonic()
        if reply is not None:
            self._heard = now
        elif now - self._heard > self._patience:
            raise MachineError(
                f"the cluster: expected a reply within {self._patience:g} s, got none. Look at its nodes, then run the "
                "same command again."
            )
        return reply
