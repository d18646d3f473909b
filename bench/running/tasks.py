"""What computing a cell takes and gives: tasks in, events out. They cross to another process as bytes.

A registered entry crosses by its name; the other process has imported what registers it.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
import torch

from bench.core import registry
from bench.core.handed_over import HandedOver
from bench.core.recipe import TrainingRecipe
from bench.core.records import Defense, Evaluation
from bench.data.split import Split
from bench.measuring.inputs import CellInputs
from bench.running.handed_over import register
from bench.store.packed_chunk import PackedChunk
from bench.training.epoch import EpochRecord
from bench.training.execution import ExecutionConfig
from bench.training.loop import TrainJob

LARGE: Final = 1 << 14  # bytes; larger arrays may travel beside a task, each content once


@dataclass(frozen=True)
class TrainTask:
    """Train a network.

    Attributes:
        label: of the run.
        job: the training.
        device: where.
        execution: how a step is carried out.
        checkpoint: file to resume from and to write to, named after the training's cell.
        gated: whether its precision is tried against fp32 first, see `precision_gate`.
    """

    label: str
    job: TrainJob
    device: torch.device
    execution: ExecutionConfig
    checkpoint: Path
    gated: bool = False


@dataclass(frozen=True)
class TakeOverTask:
    """Take over the weights of a network that was trained elsewhere.

    Attributes:
        label: of the run.
        job: builds the network; its defense says where the weights are.
        device: where it is checked.
        door: images on which the model contract is checked, (m, C, H, W).
        cell: id of its cell; "" for one that is only tried.
    """

    label: str
    job: TrainJob
    device: torch.device
    door: np.ndarray
    cell: str = ""


@dataclass(frozen=True)
class EvaluationTask:
    """Evaluate a trained network on images, chunk by chunk.

    Attributes:
        label: of the run.
        job: builds the network; its training images are not needed.
        weights: file of the trained weights.
        sha256: theirs.
        probe: the logits that were stored when it was trained.
        door: images on which the model contract is checked, (m, C, H, W).
        evaluation: the registered evaluation.
        arguments: its arguments.
        split: the images.
        index: their places in the data set; None: the first ones.
        seed: of its random draws.
        device: where.
        inputs: what it reads of other cells; None: nothing.
        keep_images: names of the image columns that are kept; None: all.
        batch_size: images per call; None: what memory should hold.
        done: numbers of the chunks that are stored already.
        cell: id of its cell.
    """

    label: str
    job: TrainJob
    weights: Path
    sha256: str
    probe: Sequence[Sequence[float | None]] | None
    door: np.ndarray
    evaluation: Evaluation
    arguments: Mapping[str, object]
    split: Split
    index: np.ndarray | None
    seed: int
    device: torch.device
    inputs: CellInputs | None
    keep_images: frozenset[str] | None
    batch_size: int | None
    done: tuple[int, ...]
    cell: str = ""

    def keeps(self, column: str) -> bool:
        """Tell whether an image column is to be kept."""
        return self.keep_images is None or column in self.keep_images


@dataclass(frozen=True)
class CallTask:
    """Call a function of ours that runs third parties' code.

    Attributes:
        label: what it does, for messages.
        function: of a module, by whose name the other process finds it.
        arguments: of the call.
    """

    label: str
    function: Callable[..., object]
    arguments: tuple[object, ...]


Task: TypeAlias = TrainTask | TakeOverTask | EvaluationTask


@dataclass(frozen=True)
class Note:
    """A line for the user."""

    text: str


@dataclass(frozen=True)
class Trained:
    """The end of a training: the weights as a safetensors file, and what else is stored of it."""

    weights: bytes
    info: dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """The end of an evaluation: what is known of the model as a whole, and the time that this took."""

    summary: dict[str, Any] = field(default_factory=dict)
    time: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Returned:
    """What a called function has returned."""

    value: object


@dataclass(frozen=True)
class Advance:
    """How far an epoch or a chunk is.

    Attributes:
        stage: of the computation; "" where it has none.
        done: images, batches or steps of the stage.
        of: of how many.
        forwards: images that have passed forward in the chunk; 0 for a training.
    """

    stage: str
    done: int
    of: int
    forwards: int = 0


Event: TypeAlias = Advance | Note | EpochRecord | PackedChunk | Trained | Measured | Returned
Emit: TypeAlias = Callable[[Event], None]


class Stop(Protocol):
    """Asked while a task is computed whether to stop."""

    def __call__(self) -> bool:
        """Tell whether to stop at the next step of a training, or the next chunk of an evaluation."""
        ...

    def at_once(self) -> bool:
        """Tell whether to stop within a chunk as well."""
        ...


class Computes(Protocol):
    """Has tasks computed: whoever stores their results does not ask where."""

    def compute(self, task: Task, emit: Emit, stop: Stop, *, apart: bool = False) -> None:
        """Compute a task.

        Args:
            task: what is computed.
            emit: called with each result, in order.
            stop: asked whether to stop.
            apart: compute our own code in a child as well: the last process that computed it has died.

        Raises:
            Stopped: it was asked to.
            BenchError: it cannot be computed.
        """
        ...


def functions_of(task: Task) -> Iterator[Callable[..., object]]:
    """Yield every function of registered entries that a task may call."""
    defense = task.job.defense
    adaptive = defense.adaptive
    found = [defense.function, task.job.recipe.loss]
    found += [adaptive.surrogate, adaptive.loss] if adaptive else []
    if isinstance(task, EvaluationTask):
        evaluation = task.evaluation
        found += [evaluation.function, evaluation.summary, evaluation.attack.function if evaluation.attack else None]
    yield from (function for function in found if function is not None)


def without_images(job: TrainJob) -> TrainJob:
    """Return a training's job for building its network alone."""
    return replace(job, train=Split(job.train.images[:0], job.train.labels[:0], ""), holdout=None)


class _Pickler(pickle.Pickler):
    """Writes a registered entry as its name, a training with what differs from its defense's defaults."""

    def __init__(self, stream: io.BytesIO, keep: Callable[[np.ndarray], str] | None, large: int) -> None:
        super().__init__(stream, protocol=pickle.HIGHEST_PROTOCOL)
        self._keep, self._large = keep, large

    def reducer_override(self, obj: object) -> Any:
        if isinstance(obj, np.ndarray):
            if self._keep is None or obj.nbytes <= self._large or obj.dtype.hasobject:
                return NotImplemented
            return _kept_array, (self._keep(obj),)
        if isinstance(obj, Defense):
            return _defense, (obj.name, obj.source, obj.handed_over)
        if isinstance(obj, Evaluation):
            return _evaluation, (obj.name,)
        if isinstance(obj, TrainJob):
            defaults = obj.defense.hyperparameters
            given = {k: v for k, v in obj.hyperparameters.items() if k not in defaults or v is not defaults[k]}
            values = (obj.backbone, obj.num_classes, obj.shape, obj.seed, obj.train, obj.holdout)
            return _job, (obj.defense, given, replace(obj.recipe, loss=None), values)
        return NotImplemented


def _defense(name: str, source: str, handed_over: HandedOver | None) -> Defense:
    if handed_over is not None and name not in registry.defenses:
        return register(handed_over, name, source=source)
    return registry.defenses.get(name)


def _evaluation(name: str) -> Evaluation:
    return registry.evaluations.get(name)


def _job(defense: Defense, given: dict[str, object], recipe: TrainingRecipe, values: tuple[Any, ...]) -> TrainJob:
    return TrainJob(defense, {**defense.hyperparameters, **given}, replace(recipe, loss=defense.recipe.loss), *values)


def _kept_array(name: str) -> np.ndarray:
    """Stand for a large array that is kept beside the bytes: `_Unpickler` puts what fetches it in this place.

    Raises:
        UnpicklingError: nothing fetches arrays.
    """
    raise pickle.UnpicklingError(f"array {name[:12]} is kept elsewhere")


class _Unpickler(pickle.Unpickler):
    """Reads what `_Pickler` wrote."""

    def __init__(self, stream: io.BytesIO, fetch: Callable[[str], np.ndarray] | None) -> None:
        super().__init__(stream)
        self._fetch = fetch

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for."""
        if self._fetch is not None and (module, name) == (__name__, _kept_array.__name__):
            return self._fetch
        return super().find_class(module, name)


def to_bytes(value: object, keep: Callable[[np.ndarray], str] | None = None, large: int = LARGE) -> bytes:
    """Return a task or an event as bytes.

    Args:
        value: the task or event.
        keep: takes each large array and returns the name that stands for it in the bytes; None: they hold it.
        large: bytes above which an array is large.
    """
    stream = io.BytesIO()
    _Pickler(stream, keep, large).dump(value)
    return stream.getvalue()


def from_bytes(content: bytes, fetch: Callable[[str], np.ndarray] | None = None) -> Any:
    """Return what `to_bytes` was given; only for bytes that a process of this command has written.

    Args:
        content: the bytes.
        fetch: returns the large array of a name; None: the bytes hold them.
    """
    return _Unpickler(io.BytesIO(content), fetch).load()
