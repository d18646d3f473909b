"""A small result folder as a run leaves it: two models, two evaluations each, weights, images, logs; no torch."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd

from bench.core.hashing import sha256_of
from bench.core.records import Column
from bench.store import seals
from bench.store.owned_file import write_owned
from bench.store.plan_record import (
    DataRecord,
    EnvironmentRecord,
    EvaluationRecord,
    PlanRecord,
    RunRecord,
    SplitRecord,
    SuiteRecord,
)
from bench.store.records import Lease
from bench.store.store import Store

EVALUATIONS = ("accuracy", "attack")
CHUNKS = 3


def plan_of(*defenses: str, command: str = "bench run") -> PlanRecord:
    """Return the record of a plan of these defenses, seed 0, with both evaluations."""
    part = SplitRecord(n=6, total=6, fingerprint="f")
    version = dict.fromkeys(("bench", "python", "torch", "platform", "device", "device_name"), "x")
    empty = {"description": "", "source": "", "version": 1, "hyperparameters": {}, "recipe": {}, "backbone": "b"}
    column = Column("Right.", kind="flag", board="{name}", aggregate="fraction", role="clean")
    return PlanRecord(
        command=command,
        created="2026-01-02T03:04:05+00:00",
        suite=SuiteRecord(
            name="s", dataset="digits", backbone="b", seeds=(0,), threat=None, recipe={}, defenses=defenses
        ),
        data=DataRecord(name="d", original=True, layout="x", classes=(), shape=(1, 2, 2), train=part, test=part),
        environment=EnvironmentRecord(**version),
        evaluations={
            key: EvaluationRecord(
                evaluation=key, n=6, source="", version=1, description="", columns={f"{key}_right": column}
            )
            for key in EVALUATIONS
        },
        rows=tuple(
            RunRecord(defense=d, base=d, seed=0, provenance="", train_cell=f"train-{d}", **empty) for d in defenses
        ),
    )


def weights_of(defense: str) -> bytes:
    """Return what stands for the weights of a defense."""
    return f"weights of {defense}".encode() * 50


def table_of(number: int) -> pd.DataFrame:
    """Return the table of a chunk of two images."""
    return pd.DataFrame({"index": [2 * number, 2 * number + 1], "label": [0, 1], "right": [True, number % 2 == 0]})


def images_of(number: int) -> dict[str, np.ndarray]:
    """Return the stored images of a chunk."""
    clean = np.full((1, 1, 2, 2), number / 10, np.float32)
    return {"index": np.array([2 * number]), "clean": clean, "adversarial": clean + 0.5}


def claimed(store: Store, cell: str, kind: str, spec: dict[str, object]) -> Lease:
    """Return a lease that must be free."""
    lease = store.leases.claim(cell, kind, spec)
    assert lease is not None
    return lease


def evaluate(store: Store, defense: str, key: str, number: int, place: int) -> None:
    """Write a finished evaluation."""
    cell, sha = f"{key}-{defense}", sha256_of(weights_of(defense))
    store.plans.bind_all([(number, place, key, cell)])
    lease = claimed(store, cell, "evaluation", {"model": {"weights": sha}, "name": f"{defense} seed 0: {key}"})
    for chunk in range(CHUNKS):
        store.put_chunk(lease, chunk, table_of(chunk), images_of(chunk) if key == "attack" else None, {"images": 2})
    store.finish(lease, {"forwards": 6})


def make(out: Path, *defenses: str) -> int:
    """Make a result folder in which everything is done; return the number of its plan."""
    with Store.open(out, create=True) as store:
        number = store.plans.put(plan_of(*defenses))
        for place, defense in enumerate(defenses):
            content = weights_of(defense)
            train = claimed(store, f"train-{defense}", "train", {"defense": defense, "name": f"{defense} seed 0"})
            for epoch in range(2):
                store.put_epoch(train, {"epoch": epoch, "loss": 1.0 / (1 + epoch)})
            path = out / "weights" / f"{sha256_of(content)}.safetensors"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
            store.finish(train, {"weights": sha256_of(content), "wall_seconds": 1.5})
            for key in EVALUATIONS:
                evaluate(store, defense, key, number, place)
    (out / "checkpoints").mkdir(exist_ok=True)
    write_owned(out / "checkpoints" / "train-a.pt", "train-a a seed 0", b"state")
    return number


def copied(folder: Path, to: Path) -> Path:
    """Copy a result folder that nobody has open."""
    shutil.copytree(folder, to, dirs_exist_ok=True)
    return to


def change(out: Path, sql: str, *values: object, seal: str = "") -> None:
    """Change the database behind the store's back; `seal` names a table whose seals are made to agree."""
    with contextlib.closing(sqlite3.connect(out / "bench.db")) as db, db:
        db.row_factory = sqlite3.Row
        db.execute(sql, values)
        if seal:
            seals.seal(db, seal, "true", {})
