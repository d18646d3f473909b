"""The worker's side: `compute(order, fetch)` returns results as bytes. It has no store."""

from __future__ import annotations

import functools
import io
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch

from bench.core import discovery, files
from bench.core.errors import SecurityError, Stopped
from bench.core.hashing import sha256_of
from bench.running import machine
from bench.running.computers import Computers
from bench.running.remote.code import require_same_code
from bench.running.remote.orders import Order, checked, parse_order
from bench.running.remote.replies import Failure, Result, Unfinished, to_reply
from bench.running.tasks import Advance, EvaluationTask, Event, Note, Returned, TrainTask, from_bytes

Fetch = Callable[[str], bytes]  # the blob of a SHA-256
KEPT: Final = 64  # arrays that a process keeps


def compute(order: bytes, fetch: Fetch) -> bytes:
    """Compute an order. It may be given again after a fault: the same order gives the same rows.

    Args:
        order: see `Order`.
        fetch: returns the blob of a SHA-256.

    Returns:
        The results, or the failure, see `to_reply`. A process that is asked to end gives none: the order is sent again.
    """
    results = list[Result]()

    def take(event: Event) -> None:
        if not isinstance(event, Advance | Returned):
            results.append(event)

    try:
        asked = parse_order(order)
        require_same_code(asked.code)
        results += _process().carry_out(asked, fetch, take)
    except Exception as error:  # not SystemExit: that comes from the process that is asked to end
        results.append(Failure.of(error))
    return to_reply(results)


@functools.cache
def _process() -> _Worker:
    """Return the worker of this process."""
    return _Worker()


class _Until:
    """Asks a training to stop after a time, with a checkpoint."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def __call__(self) -> bool:
        """Tell whether the time is over."""
        return time.monotonic() >= self._end

    def at_once(self) -> bool:
        """Never: a chunk is computed whole."""
        return False


class _Worker:
    """Computes orders one after the other, in a folder of its own."""

    def __init__(self) -> None:
        machine.keep_memory()
        self._scratch = tempfile.TemporaryDirectory(prefix="bench-worker-")
        self._folder = Path(self._scratch.name)
        self._arrays: dict[str, np.ndarray] = {}
        self._included: set[str] = set()
        self._computers: Computers | None = None
        self._take: Callable[[Event], None] = lambda event: None

    def carry_out(self, order: Order, fetch: Fetch, take: Callable[[Event], None]) -> list[Result]:
        """Compute an order.

        Args:
            order: what is computed.
            fetch: returns the blob of a SHA-256.
            take: called with each result.

        Returns:
            What follows those results: the checkpoint of a training that is not finished.
        """
        torch.set_num_threads(order.threads)
        self._take = take
        for name, needed in (order.included or {}).items():
            self._include(name, needed, fetch, order.silent)
        if self._computers is None:
            self._computers = Computers(order.silent, lambda line: self._take(Note(line)))
        task = from_bytes(checked(fetch(order.task), order.task), lambda sha: self._array(sha, fetch))
        if isinstance(task, TrainTask):
            return self._train(order, task, fetch)
        self._evaluate(order, task, fetch)
        return []

    def _train(self, order: Order, task: TrainTask, fetch: Fetch) -> list[Result]:
        """Train until the time of the order is over, from its checkpoint on."""
        checkpoint = self._folder / task.checkpoint
        files.remove(checkpoint)
        if order.checkpoint:
            files.write_bytes(checkpoint, checked(fetch(order.checkpoint), order.checkpoint))
        try:
            self._compute(replace(task, checkpoint=checkpoint), _Until(order.seconds))
        except Stopped:
            return [Unfinished(checkpoint.read_bytes() if checkpoint.is_file() else None)]
        finally:
            files.remove(checkpoint)
        return []

    def _evaluate(self, order: Order, task: EvaluationTask, fetch: Fetch) -> None:
        """Compute the chunks of an order, or what is known of the model as a whole."""
        weights = self._folder / f"{order.weights}.safetensors"
        if not weights.is_file():
            files.write_bytes(weights, checked(fetch(order.weights), order.weights))
        wanted = range(*order.chunks)
        count = -(-len(task.split) // task.evaluation.chunk)
        done = tuple(number for number in range(count) if number not in wanted)
        evaluation = task.evaluation if order.part == "summary" else replace(task.evaluation, summary=None)
        self._compute(replace(task, weights=weights, done=done, evaluation=evaluation), _Until(math.inf))

    def _compute(self, task: EvaluationTask | TrainTask, until: _Until) -> None:
        assert self._computers is not None  # narrows the type: made before the first task
        self._computers.compute(task, self._take, until)

    def _include(self, name: str, needed: dict[str, str], fetch: Fetch, seconds: float) -> None:
        """Write a third party's file and what it needs to this worker's folder, and import it there once."""
        digest = sha256_of("".join(f"{path}\0{needed[path]}\n" for path in sorted(needed)).encode())
        if digest in self._included:
            return
        folder = self._folder / digest[:16]
        for path, sha256 in needed.items():
            target = folder / path
            if not target.resolve().is_relative_to(folder.resolve()):
                raise SecurityError(f"included file {path!r}: expected a path below its folder, got one outside it.")
            files.write_bytes(target, checked(fetch(sha256), sha256))
        discovery.include(folder / name, seconds)
        self._included.add(digest)

    def _array(self, sha256: str, fetch: Fetch) -> np.ndarray:
        if sha256 not in self._arrays:
            if len(self._arrays) >= KEPT:
                del self._arrays[next(iter(self._arrays))]
            self._arrays[sha256] = np.load(io.BytesIO(checked(fetch(sha256), sha256)), allow_pickle=False)
        return self._arrays[sha256]
