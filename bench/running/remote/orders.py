"""What is asked of a worker, which has no store: chunks of an evaluation, a training or a part of one.

An order is canonical JSON. What it is computed from it names by SHA-256: the weights, the images, the task's settings
and the included files are blobs that the worker fetches once.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Literal

import numpy as np
import torch

from bench.core.errors import IntegrityError
from bench.core.hashing import sha256_of
from bench.running.remote.code import code_digest, plugins_of
from bench.running.remote.included import Included
from bench.running.sources import RememberedSources
from bench.running.tasks import LARGE, EvaluationTask, TakeOverTask, Task, TrainTask, to_bytes

FORMAT: Final = 3
KEPT: Final = 64  # arrays whose SHA-256 is remembered
SLICE_SECONDS: Final = 120.0  # of a training, until its checkpoint is handed back: what a lost process costs at most
Put = Callable[[bytes], str]  # stores a blob where workers find it, and returns its SHA-256
Part = Literal["evaluation", "training", "taking over"]


@dataclass(frozen=True)
class Order:
    """One unit of work.

    Attributes:
        cell: id of the cell.
        part: "evaluation", "training", or "taking over" weights that were trained elsewhere.
        chunks: of an evaluation, the first one and the one behind the last.
        weights: SHA-256 of the weights; "" where there are none yet.
        task: SHA-256 of the task's settings.
        summary: whether to measure as well, behind the chunks, what is known of the model as a whole.
        checkpoint: SHA-256 of the checkpoint that a training goes on from; "" where it begins.
        arrays: SHA-256 of the images and values that the task reads.
        code: SHA-256 of the driver's code.
        plugins: distributions whose functions are called to the SHA-256 of their code.
        files: path below the worker's folder to the SHA-256 of each third party's file that it needs.
        included: those that are imported, in this order.
        threads: of torch.
        seconds: after which a training hands its checkpoint back; 0: it goes on to its end.
        silent: seconds for which third parties' code may give no sign of life.
        apart: whether our own code is computed in a child process as well.
        format: `FORMAT` of the version that wrote it.
    """

    cell: str
    part: Part
    chunks: tuple[int, int]
    weights: str
    task: str
    summary: bool = False
    checkpoint: str = ""
    arrays: tuple[str, ...] = ()
    code: str = ""
    plugins: dict[str, str] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    included: tuple[str, ...] = ()
    threads: int = 1
    seconds: float = SLICE_SECONDS
    silent: float = 600.0
    apart: bool = False
    format: int = FORMAT

    @property
    def blobs(self) -> frozenset[str]:
        """The SHA-256 of everything that is fetched for it."""
        return frozenset({self.weights, self.task, self.checkpoint, *self.arrays, *self.files.values()} - {""})

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
        order = Order(**{**values, **{name: tuple(values[name]) for name in ("chunks", "arrays", "included")}})
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
    """Writes the orders of tasks, and puts the blobs that they name.

    Args:
        put: stores a blob.
        included: third parties' files.
        silent: see `Order`.

    Attributes:
        seconds: of a training in one order.
        large: bytes above which an array is kept beside the settings of a task.
    """

    seconds = SLICE_SECONDS
    large = LARGE

    def __init__(self, put: Put, included: Included, silent: float) -> None:
        self._put, self._included, self._silent = put, included, silent
        self._used = set[str]()  # by the task that is being written
        self._hashed = RememberedSources()
        self._arrays: dict[int, tuple[np.ndarray, str]] = {}  # kept alive, so that no other array gets its identity

    @property
    def remembered(self) -> frozenset[str]:
        """The SHA-256 of blobs that are not put again: included files, and the arrays that were used last."""
        return frozenset({*self._included.files.values(), *(sha256 for _, sha256 in self._arrays.values())})

    def evaluation(self, task: EvaluationTask, chunks: Iterable[tuple[int, int]]) -> list[Order]:
        """Return one order per range of chunks of an evaluation.

        Args:
            task: the evaluation.
            chunks: the first one and the one behind the last, of each range.
        """
        whole = self._order("evaluation", task, task.cell, self._weights(task))
        return [replace(whole, chunks=part) for part in chunks]

    def summary(self, task: EvaluationTask) -> Order:
        """Return the order of what is known of the model as a whole, once all chunks are there."""
        return replace(self._order("evaluation", task, task.cell, task.sha256), summary=True)

    def training(self, task: TrainTask) -> Order:
        """Return the order of a training, from its checkpoint on."""
        return replace(self._order("training", task, task.checkpoint.stem, ""), checkpoint=self._checkpoint(task))

    def taking_over(self, task: TakeOverTask) -> Order:
        """Return the order of taking weights over."""
        return self._order("taking over", task, task.cell, "")

    def _order(self, part: Part, task: Task, cell: str, weights: str) -> Order:
        self._used = set[str]()
        settings = self._put(to_bytes(_without_places(task), self._kept, self.large))
        while len(self._arrays) > KEPT:
            del self._arrays[next(iter(self._arrays))]
        return Order(
            cell=cell,
            part=part,
            chunks=(0, 0),
            weights=weights,
            task=settings,
            arrays=tuple(sorted(self._used)),
            code=code_digest(),
            plugins=self._plugins(task),
            files=self._included.files,
            included=self._included.imported,
            threads=torch.get_num_threads(),
            seconds=self.seconds,
            silent=self._silent,
        )

    def _plugins(self, task: Task) -> dict[str, str]:
        """Return the plug-ins that a worker must have."""
        return plugins_of(task, self._hashed)

    def _weights(self, task: EvaluationTask) -> str:
        """Make weights available to workers and return their SHA-256."""
        return self._put(task.weights.read_bytes())

    def _checkpoint(self, task: TrainTask) -> str:
        """Make the checkpoint of a training available to workers and return its SHA-256; "" where there is none."""
        return self._put(task.checkpoint.read_bytes()) if task.checkpoint.is_file() else ""

    def _kept(self, array: np.ndarray) -> str:
        """Return the SHA-256 of an array; those that were used last are not hashed again."""
        known = self._arrays.pop(id(array), None) or (array, self._put_array(array))
        self._arrays[id(array)] = known
        self._used.add(known[1])
        return known[1]

    def _put_array(self, array: np.ndarray) -> str:
        """Make an array available to workers and return the SHA-256 of its file."""
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        return self._put(stream.getvalue())


def _without_places(task: Task) -> Task:
    """Return a task without what differs between machines, and without what is done of it."""
    if isinstance(task, TrainTask):
        return replace(task, checkpoint=type(task.checkpoint)(task.checkpoint.name))
    if isinstance(task, EvaluationTask):
        return replace(task, weights=type(task.weights)(task.weights.name), done=())
    return task


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
