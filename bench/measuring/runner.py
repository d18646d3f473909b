"""(model, images, evaluation) → one table: chunk by chunk (stored), batch by batch (what memory holds).

A chunk has a fixed size, so that a resumed run equals an uninterrupted one; a batch may shrink when memory runs
out, which changes no result but by rounding. Passes through the network are counted here, outside the evaluations.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bench.core.errors import BenchError, UsageError
from bench.core.records import Adaptive, Column, Evaluation, expand_columns
from bench.core.torch_state import full_precision
from bench.data.pixels import to_unit
from bench.data.split import Split
from bench.measuring.adversarial_images import changed_images
from bench.measuring.inputs import BatchInputs, CellInputs
from bench.measuring.memory import HalvingBatches
from bench.measuring.model_contract import checked_eval
from bench.measuring.passes import counted

Columns = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Chunk:
    """What is stored of one chunk: its table, its images (or None), its counts, and what its columns are."""

    number: int
    table: pd.DataFrame
    images: dict[str, np.ndarray] | None
    info: dict[str, Any]
    columns: dict[str, Column]


def evaluate_chunks(
    entry: Evaluation,
    model: nn.Module,
    split: Split,
    device: torch.device,
    *,
    arguments: dict[str, Any],
    seed: int,
    adaptive: Adaptive | None = None,
    inputs: CellInputs | None = None,
    batch_size: int | None = None,
    done: Sequence[int] = (),
    keep_images: Callable[[str], bool] = lambda column: False,
    index: np.ndarray | None = None,
) -> Iterator[Chunk]:
    """Yield the chunks of an evaluation that are not done yet.

    Args:
        entry: the registered evaluation.
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

    Raises:
        UsageError: the evaluation reads other cells, and there are no inputs.
        BenchError: a column is missing, has the wrong length or is not finite where it must be.
        OutOfMemoryError: not even one image fits into memory.
    """
    if entry.needs and inputs is None:
        raise UsageError(
            f"evaluation {entry.name}: expected the results of other evaluations, which it reads, got a model alone. "
            "Run it in a suite."
        )
    settings = {**arguments, "seed": seed} | ({"adaptive": adaptive} if entry.adaptive else {})
    n = len(split.labels)
    places = np.arange(n) if index is None else index
    aligned = None if inputs is None else functools.partial(_aligned, inputs, places)
    batches = HalvingBatches(entry.name, batch_size or automatic_batch_size(split.images.shape[1:], device))
    for number in range(math.ceil(n / entry.chunk)):
        if number in done:
            continue
        rows = range(number * entry.chunk, min(n, (number + 1) * entry.chunk))
        started = time.monotonic()
        with counted(model) as passes:
            parts = batches.run(rows, lambda part: _call(entry, model, split, part, device, settings, aligned))
        table, images = _assemble(parts, split, rows, keep_images)
        table["index"] = places[table["index"]]
        info = {
            "forwards": passes.forwards,
            "backwards": passes.backwards,
            "images": len(rows),
            "seconds": time.monotonic() - started,
        }
        yield Chunk(number, table, images, info, expand_columns(entry.columns, arguments, table.columns))


def _aligned(inputs: CellInputs, places: np.ndarray, part: slice, x: Tensor) -> BatchInputs:
    """Return the inputs of the batch `part` of a cell's images."""
    return inputs.batch(places[part].tolist(), x)


def automatic_batch_size(shape: tuple[int, ...], device: torch.device) -> int:
    """Return images per call for images of this shape: 130 of 3×32×32 on a CPU, 500 on a GPU."""
    return 500 if device.type == "cuda" else max(8, min(500, 400_000 // math.prod(shape)))


def _call(
    entry: Evaluation,
    model: nn.Module,
    split: Split,
    part: slice,
    device: torch.device,
    settings: dict[str, Any],
    aligned: Callable[[slice, Tensor], BatchInputs] | None,
) -> Columns:
    """Evaluate one batch."""
    x = to_unit(torch.tensor(split.images[part])).to(device)
    y = torch.tensor(split.labels[part]).to(device)
    with checked_eval(model), full_precision(device):
        columns = entry.function(model, x, y, **settings, **({"inputs": aligned(part, x)} if aligned else {}))
    for name, values in columns.items():
        if len(values) != len(y):
            raise BenchError(
                f"evaluation {entry.name}: expected {len(y)} values in column {name!r}, got {len(values)}. "
                "Return one value per example."
            )
    return {k: v.detach().cpu().numpy() if isinstance(v, Tensor) else np.asarray(v) for k, v in columns.items()}


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
