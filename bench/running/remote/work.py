"""The worker's side: `compute(order, fetch)` returns results as bytes. It has no store."""

from __future__ import annotations

import functools
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import torch

from bench.core import discovery, files
from bench.core.errors import SecurityError, Stopped
from bench.core.hashing import sha256_of
from bench.running import machine
from bench.running.computers import Computers
from bench.running.remote.code import require_same_code, require_same_plugins
from bench.running.remote.orders import Order, checked, parse_order
from bench.running.remote.replies import Failure, Result, Unfinished, to_reply
from bench.running.sources import RememberedSources
from bench.running.tasks import Advance, EvaluationTask, Event, Note, Returned, Stop, Task, TrainTask, from_bytes

Fetch = Callable[[str], bytes]  # the blob of a SHA-256
KEPT: Final = 64  # arrays that a process keeps


class Supply(Protocol):
    """Gives a worker what an order names."""

    def blob(self, sha256: str) -> bytes:
        """Return the blob of a SHA-256."""
        ...

    def array(self, sha256: str) -> np.ndarray:
        """Return the array of a SHA-256."""
        ...


@dataclass(frozen=True)
class Folders:
    """Where a worker beside the driver finds trained weights and leaves the checkpoints of its trainings.

    Attributes:
        weights: files named by their SHA-256.
        checkpoints: a training goes on from the one that is there.
    """

    weights: Path
    checkpoints: Path


def compute(order: bytes, fetch: Fetch) -> bytes:
    """Compute an order. It may be given again after a fault: the same order gives the same rows.

    Args:
        order: see `Order`.
        fetch: returns the blob of a SHA-256.

    Returns:
        The results, or the failure, see `to_reply`. A process that is asked to end gives none: the order is sent again.
    """
    results = list[Result]()

    def take(result: Result) -> None:
        if not isinstance(result, Advance):
            results.append(result)

    try:
        worker, arrays = _process()
        worker.carry_out(parse_order(order), Fetched(fetch, arrays), take, Until(0.0))
    except Exception as error:  # not SystemExit: that comes from the process that is asked to end
        results.append(Failure.of(error))
    return to_reply(results, sha256_of(order))


def compute_by_parts(order: bytes, worker: Worker, supply: Supply, take: Callable[[bytes], None], stop: Stop) -> None:
    """Compute an order for a driver that takes each result as it comes, as bytes, and may ask to stop.

    Args:
        order: see `Order`.
        worker: of this process.
        supply: gives what the order names.
        take: called with the bytes of each result, see `to_reply`.
        stop: asked whether to stop.

    Raises:
        Stopped: it was asked to.
        BenchError: it cannot be computed.
    """
    answered = sha256_of(order)
    worker.carry_out(parse_order(order), supply, lambda result: take(to_reply([result], answered)), stop)


@functools.cache
def _process() -> tuple[Worker, dict[str, np.ndarray]]:
    """Return the worker of this process, and the arrays that it keeps."""
    return Worker(), {}


def end_worker() -> None:
    """End the worker of this process: its child would keep the process from ending."""
    if _process.cache_info().currsize:
        _process()[0].close()
        _process.cache_clear()


class Until:
    """Asks a training to stop after a time, with a checkpoint, and passes on what a driver asks.

    Args:
        seconds: from now on; 0: no time.
        stop: of the driver; None: it never asks.
    """

    def __init__(self, seconds: float, stop: Stop | None = None) -> None:
        self._end = time.monotonic() + seconds if seconds else None
        self._stop = stop

    def __call__(self) -> bool:
        """Tell whether to stop."""
        over = self._end is not None and time.monotonic() >= self._end
        return over or (self._stop is not None and self._stop())

    def at_once(self) -> bool:
        """Tell whether to stop within a chunk: only a driver asks for that."""
        return self._stop is not None and self._stop.at_once()


class Fetched:
    """What orders name, fetched as blobs.

    Args:
        fetch: returns the blob of a SHA-256.
        arrays: those that the process keeps.
    """

    def __init__(self, fetch: Fetch, arrays: dict[str, np.ndarray]) -> None:
        self._fetch, self._arrays = fetch, arrays

    def blob(self, sha256: str) -> bytes:
        """Return the blob of a SHA-256.

        Raises:
            IntegrityError: what was fetched has another.
        """
        return checked(self._fetch(sha256), sha256)

    def array(self, sha256: str) -> np.ndarray:
        """Return the array of a SHA-256."""
        if sha256 not in self._arrays:
            if len(self._arrays) >= KEPT:
                del self._arrays[next(iter(self._arrays))]
            self._arrays[sha256] = np.load(io.BytesIO(self.blob(sha256)), allow_pickle=False)
        return self._arrays[sha256]


class Worker:
    """Computes orders one after the other; close it where the process goes on without it.

    Args:
        folders: beside the driver; None: a folder of its own, from which checkpoints are handed back.
        log: called with a line of a child's output; None: it becomes a result.
    """

    def __init__(self, folders: Folders | None = None, log: Callable[[str], None] | None = None) -> None:
        machine.keep_memory()
        self._folders, self._log = folders, log
        self._included: set[str] = set()
        self._hashed = RememberedSources()
        self._computers: Computers | None = None
        self._take: Callable[[Result], None] = lambda result: None

    def close(self) -> None:
        """End the child, if there is one, and remove this worker's folder."""
        if self._computers is not None:
            self._computers.close()
        if self.__dict__.pop("_scratch", None) is not None:
            self._holder.cleanup()

    def carry_out(self, order: Order, supply: Supply, take: Callable[[Result], None], stop: Stop) -> None:
        """Compute an order.

        Args:
            order: what is computed.
            supply: gives what it names.
            take: called with each result; the last one of a training that is not finished is its checkpoint.
            stop: asked whether to stop.

        Raises:
            Stopped: it was asked to.
            BenchError: it cannot be computed.
        """
        require_same_code(order.code)
        torch.set_num_threads(order.threads)
        self._take = take
        if order.included:
            self._include(order, supply)
        if self._computers is None:
            self._computers = Computers(order.silent, self._log or (lambda line: self._take(Note(line))))
        task = from_bytes(supply.blob(order.task), supply.array)
        require_same_plugins(order.plugins, task, self._hashed)
        if isinstance(task, TrainTask):
            self._train(order, task, supply, stop)
        elif isinstance(task, EvaluationTask):
            self._evaluate(order, task, supply, stop)
        else:
            self._compute(order, task, stop)

    def _train(self, order: Order, task: TrainTask, supply: Supply, stop: Stop) -> None:
        """Train until the time of the order is over, from its checkpoint on."""
        if self._folders is not None:
            self._compute(order, replace(task, checkpoint=self._folders.checkpoints / task.checkpoint), stop)
            return
        checkpoint = self._scratch / task.checkpoint
        files.remove(checkpoint)
        if order.checkpoint:
            files.write_bytes(checkpoint, supply.blob(order.checkpoint))
        try:
            self._compute(order, replace(task, checkpoint=checkpoint), Until(order.seconds, stop))
        except Stopped:
            if stop():
                raise
            self._take(Unfinished(checkpoint.read_bytes() if checkpoint.is_file() else None))
        finally:
            files.remove(checkpoint)

    def _evaluate(self, order: Order, task: EvaluationTask, supply: Supply, stop: Stop) -> None:
        """Compute the chunks of an order, and what is known of the model as a whole if that is asked for."""
        weights = (self._folders.weights if self._folders else self._scratch) / f"{order.weights}.safetensors"
        if not self._folders and not weights.is_file():
            files.write_bytes(weights, supply.blob(order.weights))
        wanted = range(*order.chunks)
        count = -(-len(task.split) // task.evaluation.chunk)
        done = tuple(number for number in range(count) if number not in wanted)
        evaluation = task.evaluation if order.summary else replace(task.evaluation, summary=None)
        self._compute(order, replace(task, weights=weights, done=done, evaluation=evaluation), stop)

    def _compute(self, order: Order, task: Task, stop: Stop) -> None:
        def take(event: Event) -> None:
            if not isinstance(event, Returned):
                self._take(event)

        assert self._computers is not None  # narrows the type: made before the first task
        self._computers.compute(task, take, stop, apart=order.apart)

    @functools.cached_property
    def _scratch(self) -> Path:
        """A folder of this worker alone, which goes with it."""
        self._holder = tempfile.TemporaryDirectory(prefix="bench-worker-")
        return Path(self._holder.name)

    def _include(self, order: Order, supply: Supply) -> None:
        """Write third parties' files to this worker's folder, and import there what was included, once.

        Raises:
            SecurityError: a path leads out of that folder.
        """
        digest = sha256_of("".join(f"{path}\0{order.files[path]}\n" for path in sorted(order.files)).encode())
        if digest in self._included:
            return
        folder = self._scratch / digest[:16]
        for path in (*order.files, *order.included):
            if not (folder / path).resolve().is_relative_to(folder.resolve()):
                raise SecurityError(f"included file {path!r}: expected a path below its folder, got one outside it.")
        for path, sha256 in order.files.items():
            files.write_bytes(folder / path, supply.blob(sha256))
        for path in order.included:
            discovery.include(folder / path, order.silent)
        self._included.add(digest)
