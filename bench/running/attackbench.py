"""Minimal-norm attacks of a board as results of AttackBench, version 2 of its protocol: one JSON per row and attack.

The form is that of attackbenchlib 2.0.2 (`save_precompiled_distances`). Each image is named by its SHA-512; so the data
set is loaded by its fingerprint, and the rest is read from the store. No model runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from bench.core import files
from bench.core.errors import UsageError
from bench.core.records import Column, expand_columns
from bench.running.stored import load_test_images
from bench.store.comparable import is_trained
from bench.store.plan_record import EvaluationRecord, PlanRecord, RunRecord
from bench.store.store import Store

BUDGET: Final = 2000  # passes per image, forward and backward together: AttackBench's DEFAULT_QUERY_BUDGET
PROTOCOL: Final = 2
LIBRARY: Final = "bench"
NAMED_BY: Final = ("dataset", "threat_model", "model_name", "attack_name", "attack_lib", "n_samples")


@dataclass(frozen=True)
class AttackBenchFiles:
    """What was written, and what was not.

    Attributes:
        written: the files.
        left_out: why an attack of a row has none, in one line each.
    """

    written: tuple[Path, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Measured:
    """One attack on one row.

    Attributes:
        run: the row's model.
        key: the evaluation's key in the plan.
        evaluation: the planned evaluation.
        columns: name to column, of all its budgets.
        table: one line per image.
    """

    run: RunRecord
    key: str
    evaluation: EvaluationRecord
    columns: Mapping[str, Column]
    table: pd.DataFrame

    @property
    def params(self) -> Mapping[str, float | str]:
        """What the nearest point was measured at: norm and attack."""
        return next(c.params for c in self.columns.values() if c.role == "breaking")

    def of(self, role: str = "", passes: str = "") -> pd.DataFrame:
        """Return the columns of a role, or of passes of one kind, those of the largest budget last."""
        found = [n for n, c in self.columns.items() if c.role == role or (passes and c.params.get("passes") == passes)]
        present = [n for n in found if n in self.table]
        return self.table[sorted(present, key=lambda n: float(self.columns[n].params["eps"]))]


def write_attackbench(out: Path, to: Path, data_dir: Path | None = None) -> AttackBenchFiles:
    """Write AttackBench's file of every row and every attack that keeps the nearest adversarial point.

    Args:
        out: the result folder.
        to: where the files go.
        data_dir: where the data set is looked for first.

    Returns:
        What was written, and what was left out because its passes are unknown or above AttackBench's budget.

    Raises:
        UsageError: nothing on the board can be entered.
        IntegrityError: other images are found under the data set's name.
        MachineError: the images are not here, or the folder cannot be written.
    """
    with Store.open(out) as store:
        plan = store.plans.board().plan
        attacks = [(one, _reason(one)) for one in _attacks(store, plan)]
    fit = [one for one, reason in attacks if not reason]
    left_out = tuple(reason for _, reason in attacks if reason)
    if not fit:
        raise UsageError(
            f"{out}: expected an attack that keeps the nearest adversarial point within {BUDGET} passes per image, got "
            f"{left_out[0] if left_out else 'none'}. Add [evaluations.fmn_l2] to the suite and run again."
        )
    hashes = image_hashes(load_test_images(plan, data_dir).pixels())
    files.make_folder(to)
    written = []
    for one in fit:
        facts = _metadata(plan, one)
        path = to / f"{'-'.join(str(facts[part]) for part in NAMED_BY)}.json"
        # Infinity, which is Python's JSON alone, stands where an image was not broken: the library reads it.
        files.write_text(path, json.dumps(_entry(one, facts, hashes), indent=2))
        written.append(path)
    return AttackBenchFiles(tuple(written), left_out)


def image_hashes(images: np.ndarray) -> list[str]:
    """Return the SHA-512 of each image's float32 bytes.

    Args:
        images: (N, C, H, W) in [0, 1].
    """
    exact = np.ascontiguousarray(images, "<f4")
    return [hashlib.sha512(image.data).hexdigest() for image in exact]


def _attacks(store: Store, plan: PlanRecord) -> Iterator[_Measured]:
    """Yield every attack on test images that keeps the nearest adversarial point, of every row."""
    for run in plan.rows:
        for key, evaluation in plan.evaluations.items():
            columns = expand_columns(evaluation.columns, evaluation.arguments)
            nearest = [name for name, c in columns.items() if c.role == "breaking" and "attack" in c.params]
            cell = store.cell(run.evaluations.get(key, "")) if nearest and evaluation.split == "test" else None
            if cell is None or cell.status != "done":
                continue
            table = store.table(cell.id)
            if set(nearest) <= set(table):
                yield _Measured(run, key, evaluation, columns, table)


def _reason(one: _Measured) -> str:
    """Return why an attack on a row cannot be entered, "" if of every image it is known that the budget holds."""
    where = f"{one.run.label}, {one.key}"
    if one.of(passes="forward").empty or one.of(passes="backward").empty:
        return f"{where}: its record has no passes per image"
    most = int(np.max(_passes(one, "forward") + _passes(one, "backward")))
    return f"{where}: {most} passes for one image, and AttackBench allows {BUDGET}" if most > BUDGET else ""


def _passes(one: _Measured, way: str) -> np.ndarray:
    """Return the passes of each image, (N,), of the searches at all budgets together."""
    counts: np.ndarray = one.of(passes=way).to_numpy(np.int64).sum(axis=1)
    return counts


def _entry(one: _Measured, facts: Mapping[str, object], hashes: Sequence[str]) -> dict[str, object]:
    """Return the content of a file; a list is empty where the store does not have it."""
    norm = str(one.params["norm"])
    wrong = one.of("broken_by").iloc[:, -1].to_numpy() == "clean"
    broken = ~one.of("robust").iloc[:, -1].to_numpy(bool)
    final = np.where(broken, one.of("distance").iloc[:, -1].to_numpy(float), np.inf)
    best = np.fmin(one.of("breaking").min(axis=1).to_numpy(float), final)
    return {
        "distances": {norm: best.tolist()},
        "final_distances": {norm: final.tolist()},
        "adv_success": broken.tolist(),
        "ori_success": wrong.tolist(),
        "correct": (~wrong).tolist(),
        "hashes": [hashes[index] for index in one.table["index"]],
        "original_predictions": [],
        "adversarial_predictions": [],
        "num_forwards": _passes(one, "forward").tolist(),
        "num_backwards": _passes(one, "backward").tolist(),
        "times": [],
        "box_failures": [],
        "batch_failures": [],
        "targeted": False,
        "query_budget": BUDGET,
        "threat_model": norm,
        "metadata": facts,
        "ASR": float(broken.mean()),
        "accuracy": float((~wrong).mean()),
    }


def _metadata(plan: PlanRecord, one: _Measured) -> dict[str, object]:
    """Return AttackBench's description of a run, and under "bench" what makes it again."""
    run, name = one.run, files.safe_name(one.run.defense)
    attack = str(one.params["attack"]) if one.key == one.evaluation.evaluation else one.key
    return {
        "dataset": files.safe_name(plan.data.name),
        "model_name": f"{name}_seed{run.seed}" if is_trained(run) else name,
        "attack_name": files.safe_name(attack),
        "attack_lib": LIBRARY,
        "threat_model": str(one.params["norm"]),
        "n_samples": len(one.table),
        "query_budget": BUDGET,
        "protocol_version": PROTOCOL,
        "distance_semantics": "best_observed",
        "bench": {
            "version": plan.environment.bench,
            "arguments": one.evaluation.arguments,
            "seed": one.evaluation.seed,
            "test_images_sha256": plan.data.test.fingerprint,
            "cell": run.evaluations[one.key],
        },
    }
