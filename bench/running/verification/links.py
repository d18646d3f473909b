"""Hashes and links of a store: every cell is what its id says, and belongs to the weights that it claims."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.core import hashing
from bench.core.errors import BenchError, IntegrityError, StoreError
from bench.running.cells import key
from bench.running.verification.findings import Verification, named
from bench.store import serialise
from bench.store.health import PICTURES
from bench.store.plan_record import PlanRecord, RunRecord
from bench.store.records import CellRecord
from bench.store.store import Store
from bench.store.weights import weights_path, wrong_weights

_KINDS: Final = ("train", "evaluation")
_NAME = "name"  # of the job, which the store adds to a cell's spec for readers


def check_links(store: Store, plan: PlanRecord, found: Verification) -> frozenset[str]:
    """Check every chunk's hashes, every cell's id, and that cells, weights and plan belong together.

    Args:
        store: an open store.
        plan: its last plan.
        found: what does not hold is noted here.

    Returns:
        The weights, by the SHA-256 that they should have, whose file has another one.
    """
    names = _names(plan)
    for kind in _KINDS:
        for record in store.cells(kind):
            where = names.get(record.id, f"cell {record.id[:12]}")
            found.cells += 1
            if key(record.kind, _spec(record)) != record.id:
                found.fail(where, "expected the cell that its id names, got another description of it")
            _check_chunks(store, record, where, found)
    _check_rest(store, plan, found)
    _check_pictures(store, found)
    labels: dict[tuple[str, int], int] = {}
    changed: set[str] = set()
    for run in plan.rows:
        trained = store.cell(run.train_cell)
        if trained is not None and trained.status == "done":
            changed |= _check_weights(store.out, run, trained, found)
            _check_evaluations(store, plan, run, trained, labels, found)
    return frozenset(changed)


def _names(plan: PlanRecord) -> dict[str, str]:
    """Return cell to how it is named, for the cells of a plan."""
    names = {run.train_cell: named(run.label, "train", run.train_cell) for run in plan.rows}
    return names | {c: named(run.label, k, c) for run in plan.rows for k, c in run.evaluations.items()}


def _spec(record: CellRecord) -> dict[str, Any]:
    return {name: value for name, value in record.spec.items() if name != _NAME}


def _check_chunks(store: Store, record: CellRecord, where: str, found: Verification) -> None:
    """Read everything of a cell; whatever cannot be read, or has another hash, is noted."""
    try:
        table = store.table(record.id)
        store.images(record.id)
        store.log(record.id)
    except IntegrityError as error:
        found.fail(where, str(error))
        return
    if len(table) and (not {"index", "label"} <= set(table) or table["index"].duplicated().any()):
        found.fail(where, "expected one row per image with its index and its label, got another table")


def _check_rest(store: Store, plan: PlanRecord, found: Verification) -> None:
    """Note damage elsewhere in the folder: plans of earlier commands, records of no cell, weights of no row."""
    read = {record.id for kind in _KINDS for record in store.cells(kind)}
    trained = (store.cell(run.train_cell) for run in plan.rows)
    rows = {f"weights/{one.info.get('weights')}.safetensors" for one in trained if one is not None}
    problems = store.problems()
    for problem in problems:
        if problem.where not in rows and not (problem.table in ("chunks", "epochs") and problem.cell in read):
            found.fail(problem.where, problem.what)
    for number in store.plans.numbers():
        try:
            store.plans.get(number)
        except StoreError as error:
            found.notes.append(f"plan {number}: {error}")
        except IntegrityError as error:
            if not any(f"{problem.where}: " in str(error) for problem in problems):
                found.fail(f"plan {number}", str(error))


def _check_pictures(store: Store, found: Verification) -> None:
    """Check that the adversarial examples that lie beside the weights are those of the store."""
    cells = {record.id[:8]: record.id for record in store.cells("evaluation") if record.status == "done"}
    for path in sorted((store.out / "weights").glob("*")):
        if (named := PICTURES.fullmatch(path.name)) and (cell := cells.get(named[1])):
            with contextlib.suppress(IntegrityError):  # noted already
                if not serialise.is_packed(path.read_bytes(), store.images(cell)):
                    found.fail(f"weights/{path.name}", "expected the adversarial examples of the store, got others")


def _check_weights(out: Path, run: RunRecord, trained: CellRecord, found: Verification) -> set[str]:
    """Return a training's weights if their file has another SHA-256, else nothing."""
    weights = str(trained.info.get("weights"))
    path = weights_path(out, weights)
    if not path.is_file() or (sha := hashing.sha256(path)) == weights:
        return set()
    found.fail(named(run.label, "train", trained.id), f"{path.name}: {wrong_weights(weights, sha)}")
    return {weights}


def _check_evaluations(
    store: Store,
    plan: PlanRecord,
    run: RunRecord,
    trained: CellRecord,
    labels: dict[tuple[str, int], int],
    found: Verification,
) -> None:
    """Check that the evaluations of a run are of its weights, as planned, and about the same images."""
    model = {**_spec(trained), "weights": trained.info.get("weights")}
    for evaluation, cell in run.evaluations.items():
        record, planned = store.cell(cell), plan.evaluations.get(evaluation)
        if planned is None:
            found.fail(named(run.label, evaluation, cell), "expected a planned evaluation, got another key")
            continue
        where = named(run.label, evaluation, cell)
        if record is None or record.status != "done":
            found.notes.append(f"{where}: not finished")
            continue
        if record.kind != "evaluation" or record.spec.get("model") != model:
            found.fail(where, "expected an evaluation of the weights of its row's training, got one of other weights")
        asked = {"evaluation": planned.evaluation, "arguments": planned.arguments, "seed": planned.seed}
        if other := [name for name, value in asked.items() if record.spec.get(name) != value]:
            found.fail(where, f"expected the evaluation as planned, got another {', '.join(other)}")
        _check_table(store, record, planned.n, planned.split, where, labels, found)


def _check_table(
    store: Store,
    record: CellRecord,
    n: int,
    split: str,
    where: str,
    labels: dict[tuple[str, int], int],
    found: Verification,
) -> None:
    """Check that a finished table has all of its images, with the labels that other tables give them."""
    try:
        table = store.table(record.id)
    except BenchError:
        return  # noted already
    if len(table) != n:
        found.fail(where, f"expected {n} images, got {len(table)}")
        return
    for index, label in zip(table["index"].tolist(), table["label"].tolist(), strict=True):
        if labels.setdefault((split, index), label) != label:
            found.fail(where, f"expected label {labels[split, index]} as elsewhere, got {label}", index)


def check_images(
    clean: np.ndarray, places: Mapping[int, int], data: np.ndarray | None, where: str, found: Verification
) -> None:
    """Check that clean images lie in [0, 1], are the same wherever they are stored, and are those of the data set.

    Args:
        clean: images (m, C, H, W).
        places: row to place in the test set.
        data: the test images (N, C, H, W) in [0, 1]; None: they are not at hand.
        where: the cell, for findings.
        found: what does not hold is noted here.
    """
    from bench.store.challenge_record import image_sha256

    for row, index in places.items():
        image = clean[row]
        sha = image_sha256(image)
        if not (np.isfinite(image).all() and image.min() >= 0 and image.max() <= 1):
            found.fail(where, "expected a clean image with pixels in [0, 1], got others", index)
        elif found.images.setdefault(index, sha) != sha:
            found.fail(where, "expected the clean image that is stored elsewhere, got another", index)
        elif data is not None and not (index < len(data) and np.array_equal(data[index], image)):
            found.fail(where, "expected the clean image of the data set, got another", index)
