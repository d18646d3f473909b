"""What is asked of a process that has no store: one chunk of an evaluation, its summary, or a part of a training.

An order is canonical JSON. What it is computed from it names by SHA-256: the weights, the images, the task's settings
and the included files are blobs that its process fetches once.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal

import numpy as np
import torch

from bench.core.errors import IntegrityError
from bench.core.hashing import sha256_of
from bench.running.remote.code import code_digest
from bench.running.tasks import EvaluationTask, TrainTask, to_bytes

FORMAT: Final = 1
SLICE_SECONDS: Final = 120.0  # of a training, until its checkpoint is handed back: what a lost process costs at most
Put = Callable[[bytes], str]  # stores a blob where workers find it, and returns its SHA-256


@dataclass(frozen=True)
class Order:
    """One unit of work.

    Attributes:
        cell: id of the cell.
        part: "chunk", "summary" or "training".
        chunks: first chunk, and the one behind the last.
        weights: SHA-256 of the weights; "" for a training.
        task: SHA-256 of the task's settings.
        checkpoint: SHA-256 of the checkpoint that a training goes on from; "" where it begins.
        arrays: SHA-256 of the images and values that the task reads.
        code: SHA-256 of the driver's code.
        included: name of a third party's file to path below its folder to the SHA-256 of each file that it needs.
        threads: of torch.
        seconds: after which a training hands its checkpoint back.
        silent: seconds for which third parties' code may give no sign of life.
        format: `FORMAT` of the version that wrote it.
    """

    cell: str
    part: Literal["chunk", "summary", "training"]
    chunks: tuple[int, int]
    weights: str
    task: str
    checkpoint: str = ""
    arrays: tuple[str, ...] = ()
    code: str = ""
    included: dict[str, dict[str, str]] | None = None
    threads: int = 1
    seconds: float = SLICE_SECONDS
    silent: float = 600.0
    format: int = FORMAT

    @property
    def blobs(self) -> frozenset[str]:
        """The SHA-256 of everything that is fetched for it."""
        files = (sha256 for needed in (self.included or {}).values() for sha256 in needed.values())
        return frozenset({self.weights, self.task, self.checkpoint, *self.arrays, *files} - {""})

    def to_bytes(self) -> bytes:
        """Return it as canonical JSON: the same order has the same bytes."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def parse_order(content: bytes) -> Order:
    """Return the order of canonical JSON.

    Args:
        content: as `Order.to_bytes` gives it.

    Raises:
        IntegrityError: another version wrote it, or it is damaged.
    """
    problem = ""
    try:
        values = json.loads(content)
        order = Order(**{**values, "chunks": tuple(values["chunks"]), "arrays": tuple(values["arrays"])})
    except (ValueError, TypeError, KeyError) as error:
        problem = f"{type(error).__name__}: {error}"
    else:
        if order.format == FORMAT:
            return order
        problem = f"format {order.format!r}"
    raise IntegrityError(
        f"an order of work: expected one of format {FORMAT}, got {problem}. Use the same version of bench everywhere."
    )


class OrderBook:
    """Writes the orders of tasks; every blob is put once.

    Args:
        put: stores a blob.
        included: see `Order`.
        silent: see `Order`.

    Attributes:
        seconds: of a training in one order.
    """

    seconds = SLICE_SECONDS

    def __init__(self, put: Put, included: dict[str, dict[str, str]], silent: float) -> None:
        self._put, self._included, self._silent = put, included, silent
        self._used = set[str]()  # by the task that is being written
        self._arrays: dict[int, tuple[np.ndarray, str]] = {}  # kept alive, so that no other array gets its identity

    def evaluation(self, task: EvaluationTask, numbers: Iterable[int]) -> list[Order]:
        """Return one order per chunk of an evaluation.

        Args:
            task: the evaluation.
            numbers: of the chunks.
        """
        whole = self._order(task, task.cell, self._put(task.weights.read_bytes()))
        return [replace(whole, part="chunk", chunks=(number, number + 1)) for number in numbers]

    def summary(self, task: EvaluationTask) -> Order:
        """Return the order of what is known of the model as a whole, once all chunks are there."""
        return replace(self._order(task, task.cell, task.sha256), part="summary")

    def training(self, task: TrainTask) -> Order:
        """Return the order of the next part of a training, from its checkpoint on."""
        begun = task.checkpoint.is_file()
        checkpoint = self._put(task.checkpoint.read_bytes()) if begun else ""
        return replace(self._order(task, task.checkpoint.stem, ""), part="training", checkpoint=checkpoint)

    def _order(self, task: EvaluationTask | TrainTask, cell: str, weights: str) -> Order:
        self._used = set[str]()
        settings = self._put(to_bytes(_without_places(task), self._kept))
        return Order(
            cell=cell,
            part="chunk",
            chunks=(0, 0),
            weights=weights,
            task=settings,
            arrays=tuple(sorted(self._used)),
            code=code_digest(),
            included=self._included or None,
            threads=torch.get_num_threads(),
            seconds=self.seconds,
            silent=self._silent,
        )

    def _kept(self, array: np.ndarray) -> str:
        known = self._arrays.get(id(array))
        if known is None:
            stream = io.BytesIO()
            np.save(stream, array, allow_pickle=False)
            known = self._arrays[id(array)] = array, self._put(stream.getvalue())
        self._used.add(known[1])
        return known[1]


def _without_places(task: EvaluationTask | TrainTask) -> EvaluationTask | TrainTask:
    """Return a task without what differs between machines, and without what is done of it."""
    if isinstance(task, TrainTask):
        return replace(task, checkpoint=type(task.checkpoint)(task.checkpoint.name))
    return replace(task, weights=type(task.weights)(task.weights.name), done=())


def checked(content: bytes, sha256: str) -> bytes:
    """Return a blob whose SHA-256 is the one that an order names.

    Args:
        content: what was fetched.
        sha256: what it should have.

    Raises:
        IntegrityError: it has another.
    """
    if (found := sha256_of(content)) != sha256:
        raise IntegrityError(f"a blob: expected SHA-256 {sha256[:12]}, got {found[:12]}. Run the command again.")
    return content
