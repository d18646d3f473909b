"""(model, images, evaluation) → one table: chunk by chunk (stored), batch by batch (what memory holds).

A chunk has a fixed size, so that a resumed run equals an uninterrupted one; a batch may shrink when memory runs
out, which changes no result but by rounding. Passes through the network are counted here, outside the evaluations.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bench.attacks.core.draws import RandomisedModel
from bench.core.computing_time import ComputingTime, Stopwatch
from bench.core.errors import UsageError
from bench.core.records import Adaptive, Column, Evaluation, expand_columns
from bench.core.ticks import tick
from bench.core.torch_state import full_precision, known_state
from bench.data.pixels import to_unit
from bench.data.split import Split
from bench.measuring.adversarial_images import changed_images
from bench.measuring.columns import Columns, checked_columns
from bench.measuring.gradients import PROBE_IMAGES, check_gradients
from bench.measuring.inputs import CellInputs
from bench.measuring.memory import HalvingBatches
from bench.measuring.model_contract import checked_eval
from bench.measuring.passes import Passes, counted

FITTED: Final = "batch_size_fitted"  # in the info of a chunk and of a cell for which memory ran out


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is stored of one chunk.

    Attributes:
        number: from 0.
        table: `index`, `label` and the columns, one row per image.
        images: `index`, `clean` and `adversarial` of the images that are kept, None without any.
        pictures: every image column whole, (n, C, H, W) by name, if they were asked for.
        passes: images passed through the network.
        time: what computing it took.
        columns: what each column of the table is.
        fitted: images per batch at which it fitted into memory, after larger ones did not; None: the first ones did.
    """

    number: int
    table: pd.DataFrame
    images: dict[str, np.ndarray] | None
    passes: Passes
    time: ComputingTime
    columns: dict[str, Column]
    pictures: dict[str, np.ndarray] = field(default_factory=dict)
    fitted: int | None = None

    @property
    def info(self) -> dict[str, float]:
        """Counts and times as plain data, as the store keeps them."""
        counts = {"forwards": self.passes.forwards, "backwards": self.passes.backwards, "images": len(self.table)}
        return {**counts, **self.time.as_data()} | ({} if self.fitted is None else {FITTED: self.fitted})


def evaluate_chunks(
    evaluation: Evaluation,
    model: nn.Module,
    split: Split,
    device: torch.device,
    *,
    arguments: Mapping[str, object],
    seed: int,
    adaptive: Adaptive | None = None,
    inputs: CellInputs | None = None,
    batch_size: int | None = None,
    done: Sequence[int] = (),
    keep_images: Callable[[str], bool] = lambda column: False,
    index: np.ndarray | None = None,
    pictures: bool = False,
) -> Iterator[Chunk]:
    """Yield the chunks of an evaluation that are not done yet.

    Args:
        evaluation: the registered evaluation.
        model: network in eval mode on `device`.
        split: the images and labels to evaluate.
        device: where.
        arguments: the evaluation's keyword arguments.
        seed: of the evaluation's random draws.
        adaptive: the attack that the defense's author declares, for evaluations that take it.
        inputs: what it reads of other cells, for evaluations with needs.
        batch_size: images per call; None: what memory should hold.
        done: numbers of the chunks that are stored already.
        keep_images: which image columns to keep, by name.
        index: places of the images in their data set, (n,); None: 0, 1, ….
        pictures: whether the chunks hold every image column whole.

    Raises:
        UsageError: the evaluation reads other cells, and there are no inputs.
        BenchError: a column is missing, has the wrong length or is not finite where it must be.
        OutOfMemoryError: not even one image fits into memory.
        BadModel: the evaluation follows gradients, and the model gives none.
    """
    if inputs is None and any(not need.optional for need in evaluation.needs):
        raise UsageError(
            f"evaluation {evaluation.name}: expected the results of other evaluations, which it reads, "
            "got a model alone. Run it in a suite."
        )
    settings = {**arguments, "seed": seed} | ({"adaptive": adaptive} if evaluation.adaptive else {})
    n = len(split.labels)
    places = np.arange(n) if index is None else index

    def compute(part: slice) -> Columns:
        tick("", part.start % evaluation.chunk, min(n, evaluation.chunk))
        x = to_unit(torch.tensor(split.images[part])).to(device)
        y = torch.tensor(split.labels[part]).to(device)
        read = (
            {"inputs": (inputs or CellInputs()).batch(places[part].tolist(), x, places.tolist())}
            if evaluation.needs
            else {}
        )
        return _evaluate(evaluation, model, x, y, settings | read)

    surrogate = evaluation.adaptive and adaptive is not None and adaptive.surrogate is not None
    if evaluation.gradients and not surrogate:
        with known_state():
            check_gradients(evaluation.name, model, to_unit(torch.tensor(split.images[:PROBE_IMAGES])).to(device))
    size = automatic_batch_size(split.images.shape[1:], device)
    size = max(1, size // model.draws) if isinstance(model, RandomisedModel) else size
    batches = HalvingBatches(evaluation.name, batch_size or size)
    for number in range(math.ceil(n / evaluation.chunk)):
        if number in done:
            continue
        rows = range(number * evaluation.chunk, min(n, (number + 1) * evaluation.chunk))
        watch = Stopwatch(device)
        with counted(model) as passes:
            parts = batches.run(rows, compute)
        table, images = _assemble(parts, split, rows, keep_images)
        table["index"] = places[table["index"]]
        if images is not None:
            images["index"] = places[images["index"]]
        whole = {k: np.concatenate([p[k] for p in parts]) for k, v in parts[0].items() if pictures and v.ndim > 1}
        facts = expand_columns(evaluation.columns, arguments, table.columns)
        yield Chunk(number, table, images, passes, watch.read(), facts, whole, batches.size if batches.halved else None)


def automatic_batch_size(shape: tuple[int, ...], device: torch.device) -> int:
    """Return images per call for images of this shape: 130 of 3×32×32 on a CPU, 500 on a GPU."""
    return 500 if device.type == "cuda" else max(8, min(500, 400_000 // math.prod(shape)))


def _evaluate(
    evaluation: Evaluation, model: nn.Module, x: Tensor, y: Tensor, settings: Mapping[str, object]
) -> Columns:
    """Return the columns of one batch as arrays.

    Raises:
        BenchError: a column cannot be stored (see `checked_columns`).
    """
    if isinstance(model, RandomisedModel):
        model.restart()
    with known_state(), checked_eval(model), full_precision(x.device):
        columns = evaluation.function(model, x, y, **settings)
    names = list(columns) if isinstance(columns, Mapping) else []
    facts = expand_columns(evaluation.columns, settings, names)
    return checked_columns(f"evaluation {evaluation.name}", columns, facts, len(y))


def _assemble(
    parts: list[Columns], split: Split, rows: range, keep_images: Callable[[str], bool]
) -> tuple[pd.DataFrame, dict[str, np.ndarray] | None]:
    """Join the batches of a chunk into its table and its adversarial images."""
    columns = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    index = np.arange(rows.start, rows.stop)
    table = pd.DataFrame({"index": index, "label": split.labels[rows.start : rows.stop]})
    kept = []
    for name, values in columns.items():
        if values.ndim == 1:
            table[name] = values
        elif keep_images(name) and (images := changed_images(values, split, rows)):
            kept.append(images)
    return table, {k: np.concatenate([p[k] for p in kept]) for k in kept[0]} if kept else None
