"""What each cell of a plan is expected to cost: what a cell of its kind cost last time, else counted passes.

Last time is the newest finished cell of the same kind in this store, or in the store of a result folder beside it, of
networks of the same backbone and image shape on the same kind of device.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Final

from bench.core import registry
from bench.core.records import Defense
from bench.running.plan import Plan
from bench.running.progress.estimate import Size
from bench.running.schedule import Job, Schedule
from bench.store.database import NAME

NEIGHBOURS: Final = 5  # result folders beside this one that are looked into, the newest
CELLS_READ: Final = 400  # of a store, the newest
_SQL: Final = "SELECT kind, spec, info, seconds FROM cells WHERE status='done' ORDER BY rowid DESC LIMIT ?"


@dataclass(frozen=True, slots=True)
class Work:
    """What identifies the work of a cell but for how many images it goes through.

    Attributes:
        kind: "train lcnn", "autoattack_l2".
        network: backbone, image shape and device kind: passes through such networks take alike.
        factor: what its arguments multiply the cost by, in passes per image; None: unknown.
        arguments: of the evaluation; two cells with the same ones cost alike.
        images: images that it goes through; for a training, over all epochs.
    """

    kind: str
    network: tuple[object, ...]
    factor: float | None
    arguments: str
    images: int


@dataclass(frozen=True, slots=True)
class Known:
    """A finished cell of a store: its work and the seconds that it took by the clock."""

    work: Work
    seconds: float


def sizes(plan: Plan, out: Path) -> dict[str, Size]:
    """Return the size of every cell of a plan by the title of its job.

    Args:
        plan: the plan.
        out: the result folder; its neighbours are looked into as well.
    """
    past, known, found = list(history(out)), dict[Work, Size](), dict[str, Size]()
    for job in Schedule(plan).jobs:
        work = _planned(job, plan)
        if work not in known:  # rows cost alike: their number is no factor of the search
            known[work] = Size(work.kind, units(work, past), work.images)
        found[job.title] = known[work]
    return found


def forwards(job: Job) -> float | None:
    """Return how many images are expected to pass forward in an evaluation; None where nothing is known of it."""
    if job.evaluation is None or job.run.job.defense.randomised:
        return None
    name, arguments = job.evaluation.evaluation.name, job.evaluation.spec["arguments"]
    per_image = passes("evaluation", name, arguments, backwards=0.0)
    return None if per_image is None else per_image * len(job.evaluation.split)


def _planned(job: Job, plan: Plan) -> Work:
    run, evaluation = job.run.job, job.evaluation
    network = (run.backbone, tuple(plan.dataset.shape), plan.device.type)
    if evaluation is None:
        name = run.defense.name
        images = len(run.train) * run.recipe.epochs
        return Work(f"train {name}", network, passes("training", name, {}), "", images)
    return _evaluated(
        evaluation.evaluation.name, evaluation.spec["arguments"], network, run.defense, len(evaluation.split)
    )


def _evaluated(
    name: str, arguments: Mapping[str, Any], network: tuple[object, ...], defense: Defense | None, images: int
) -> Work:
    """Return the work of an evaluation; a randomised model answers by votes, so that it costs by a kind of its own."""
    randomised = defense is not None and defense.randomised
    factor = None if randomised else passes("evaluation", name, arguments)
    return Work(f"{name}, by votes" if randomised else name, network, factor, _text(arguments), images)


def units(work: Work, history: Sequence[Known]) -> float | None:
    """Return the expected cost of a cell, in seconds as in the history; where there is none, in passes.

    Args:
        work: of the cell.
        history: finished cells, the newest first.
    """
    for known in history:
        if known.work.kind == work.kind and known.work.network == work.network and known.work.images:
            scale = _scale(work, known.work)
            if scale is not None:
                return known.seconds / known.work.images * work.images * scale
    if work.factor is None:
        return None
    return work.factor * work.images * _seconds_per_pass(work.network, history)


def _scale(work: Work, known: Work) -> float | None:
    """Return what an image of a cell costs more than one of a known cell of the same kind, None if unknown."""
    if work.arguments == known.arguments:
        return 1.0
    return work.factor / known.factor if work.factor and known.factor else None


def _seconds_per_pass(network: tuple[object, ...], history: Sequence[Known]) -> float:
    """Return what a pass takes through such networks; 1 where none was timed."""
    timed = [k for k in history if k.work.network == network and k.work.factor]
    counted = sum((k.work.factor or 0.0) * k.work.images for k in timed)
    return sum(k.seconds for k in timed) / counted if counted else 1.0


def history(out: Path) -> Iterator[Known]:
    """Yield the finished cells of a store, then those of its neighbours, the newest first.

    Args:
        out: the result folder; there need not be a store in it.
    """
    others = [p for p in out.resolve().parent.glob(f"*/{NAME}") if p.parent != out.resolve()]
    for path in [out / NAME, *sorted(others, key=_age)[:NEIGHBOURS]]:
        yield from _cells(path)


def _age(path: Path) -> float:
    with contextlib.suppress(OSError):
        return -path.stat().st_mtime
    return 0.0


def _cells(path: Path) -> Iterator[Known]:
    """Yield the finished cells of a store that is only looked at: one that cannot be read has none."""
    unused = not path.with_name(f"{NAME}-wal").exists()  # then SQLite would leave files beside it
    address = f"{path.resolve().as_uri()}?mode=ro{'&immutable=1' if unused else ''}"
    with contextlib.suppress(sqlite3.Error, OSError):
        with contextlib.closing(sqlite3.connect(address, uri=True, timeout=1.0)) as db:
            rows = db.execute(_SQL, (CELLS_READ,)).fetchall()
        for kind, spec, info, seconds in rows:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                if isinstance(seconds, int | float) and seconds > 0:
                    yield Known(_stored(kind, json.loads(spec), json.loads(info)), float(seconds))


def _stored(kind: str, spec: Mapping[str, Any], info: Mapping[str, Any]) -> Work:
    """Return the work of a stored cell.

    Raises:
        KeyError: its record lacks a field: an older version wrote it.
    """
    model = spec if kind == "train" else spec["model"]
    network = (model["backbone"], tuple(model["shape"]), spec["runtime"]["device"])
    if kind == "train":
        images = int(info.get("images") or 0)
        return Work(f"train {spec['defense']}", network, passes("training", spec["defense"], {}), "", images)
    defense = registry.defenses.get(model["defense"]) if model["defense"] in registry.defenses else None
    return _evaluated(spec["evaluation"], spec["arguments"], network, defense, int(info.get("images") or 0))


def _text(arguments: Mapping[str, Any]) -> str:
    return json.dumps(arguments, sort_keys=True, default=str)


def passes(table: str, name: str, arguments: Mapping[str, Any], backwards: float = 2.0) -> float | None:
    """Return the counted passes per image of an evaluation, or of a training per epoch; None where none were counted.

    Args:
        table: "training" or "evaluation".
        name: of the defense or of the evaluation.
        arguments: of the evaluation.
        backwards: what a pass backward counts for; 0 counts passes forward alone.
    """
    found = [entry for entry in _table()[table] if name in entry["name" if table == "evaluation" else "defense"]]
    if not found:
        return None
    return sum(
        (float(entry["forwards"]) + backwards * float(entry["backwards"]))
        * math.prod(_amount(arguments.get(key)) for key in entry.get("per", ()))
        for entry in found
    )


def _amount(value: object) -> float:
    if isinstance(value, list | tuple):
        return float(len(value))
    return float(value) if isinstance(value, int | float) else 1.0


@cache
def _table() -> dict[str, list[dict[str, Any]]]:
    text = resources.files("bench.running.progress").joinpath("costs.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
