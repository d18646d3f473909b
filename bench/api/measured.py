"""What one evaluation of a model at hand comes to, computed now or read back from a folder that keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from bench.attacks.core.draws import RandomisedModel
from bench.core.computing_time import ComputingTime
from bench.core.errors import LockedError
from bench.core.hashing import sha256_of
from bench.core.records import Column, Evaluation, expand_columns
from bench.data.split import Split
from bench.measuring.runner import FITTED, Chunk
from bench.running.cells import Cell, evaluation_spec
from bench.running.probe import probe
from bench.store.store import Store
from bench.store.weights import pack_state

_DIGITS = 5  # of the logits that tell networks of the same weights apart: rounding moves the seventh

Compute = Callable[[Sequence[int]], Iterator[Chunk]]  # numbers of the chunks that are there already, to the others


@dataclass(frozen=True)
class Part:
    """The result of one evaluation.

    Attributes:
        table: `index`, `label` and its columns, one row per image.
        facts: what each column is.
        cost: forwards, backwards, seconds, wall_seconds, and batch_size_fitted where memory ran out.
        pictures: image columns whole, (N, C, H, W) by name, if they were asked for.
    """

    table: pd.DataFrame
    facts: Mapping[str, Column]
    cost: dict[str, float]
    pictures: dict[str, np.ndarray] = field(default_factory=dict)


def measured(chunks: Sequence[Chunk]) -> Part:
    """Return the result of chunks that were just computed."""
    pictures = {name: np.concatenate([c.pictures[name] for c in chunks]) for name in chunks[0].pictures}
    table = pd.concat([c.table for c in chunks], ignore_index=True)
    return Part(table, chunks[0].columns, _cost([c.info for c in chunks]), pictures)


def _cost(infos: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the cost of an evaluation from counts and times of its chunks, as the store keeps them."""
    passes: dict[str, float] = {name: sum(info[name] for info in infos) for name in ("forwards", "backwards")}
    time = sum((_time(info) for info in infos), ComputingTime())
    fitted = [info[FITTED] for info in infos if FITTED in info]
    return passes | {"seconds": time.cost, "wall_seconds": time.wall} | ({FITTED: min(fitted)} if fitted else {})


def _time(info: Mapping[str, Any]) -> ComputingTime:
    return ComputingTime(info["cpu_seconds"], info["thread_seconds"], info["wall_seconds"], info.get("device_seconds"))


class Kept:
    """A folder that keeps finished chunks of evaluations of one model; used as a context manager.

    A chunk is found again if weights and logits of the model, images, evaluation with its arguments, code and versions
    are the same.

    Args:
        out: the folder; made where there is none.
        model: the network, on its device.
        shape: (C, H, W) of an image.
        device: the model's.

    Raises:
        UsageError: the model's weights cannot be stored.
        StoreError, MachineError: the folder cannot be written, or is no store of this version.
    """

    def __init__(self, out: Path, model: nn.Module, shape: tuple[int, int, int], device: torch.device) -> None:
        logits = [[float(f"{value:.{_DIGITS}g}") for value in row] for row in probe(model, shape, device)]
        self._model = {"weights": sha256_of(pack_state(model)), "logits": sha256_of(repr(logits).encode())}
        self._model |= {"draws": str(model.draws)} if isinstance(model, RandomisedModel) else {}
        self._name = type(model).__name__
        self._device = device
        self._store = Store.open(out, create=True)
        self._store.drop_damaged()  # it is computed again
        self._so_far: list[str] = []

    def __enter__(self) -> Kept:
        """Return the folder."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close it."""
        self._store.close()

    def measure(
        self, evaluation: Evaluation, arguments: Mapping[str, object], split: Split, seed: int, compute: Compute
    ) -> Part:
        """Return the result of an evaluation; chunks that are not kept yet are computed and kept.

        Args:
            evaluation: the registered evaluation.
            arguments: its keyword arguments.
            split: images and labels.
            seed: of its draws.
            compute: yields the chunks that are not there.

        Raises:
            LockedError: another process computes it into this folder.
        """
        spec = evaluation_spec(evaluation, arguments, split, self._device, seed=seed, keep_images=frozenset())
        read = {"inputs": list(self._so_far)} if evaluation.needs else {}  # it may read what was measured before it
        cell = Cell("evaluation", {"model": self._model, **spec, **read})
        self._so_far.append(cell.id)
        lease = self._store.leases.claim(
            cell.id, "evaluation", {**cell.spec, "name": f"{self._name}: {evaluation.name}"}
        )
        if lease is not None:
            try:
                for chunk in compute(tuple(self._store.chunk_info(cell.id))):
                    self._store.put_chunk(lease, chunk.number, chunk.table, None, chunk.info, chunk.columns)
                self._store.finish(lease, {})
            except BaseException:
                self._store.leases.release(lease)
                raise
        elif holder := self._store.leases.holder(cell.id):
            raise LockedError(
                f"{self._store.out}: expected {evaluation.name} of this model to be nobody's, got one that {holder} "
                "computes. Wait for it, or choose another out=."
            )
        table = self._store.table(cell.id)
        facts = expand_columns(evaluation.columns, arguments, table.columns)
        return Part(table, facts, _cost([*self._store.chunk_info(cell.id).values()]))
