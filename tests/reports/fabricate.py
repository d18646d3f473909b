"""A synthetic result folder: a real store filled with drawn outcomes, without torch and without a run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.core.records import Column, expand_columns
from bench.store.plan_record import PLAN_FORMAT, PlanRecord, parse_plan
from bench.store.records import Lease
from bench.store.store import Store

EPS = (0.05, 0.1, 0.5)
ARGUMENTS = {"pgd_l2": {"eps": list(EPS)}, "autoattack_l2": {"eps": [0.5]}, "stability": {"radius": [0.01, 0.1]}}
DEFENSES = {"standard": 0.2, "lcnn": 0.24, "gradreg": 0.5, "lcnn:lambda_beta=0.01": 0.26}  # typical breaking distance
FLAG = {"kind": "flag", "aggregate": "fraction", "direction": "higher", "source": "a paper", "interval": "wilson"}
L2 = {"norm": "l2"}
COLUMNS: dict[str, dict[str, Column]] = {
    "accuracy": {
        "clean_correct": Column("Classified right.", board="clean_accuracy", role="clean", **FLAG),
        "margin": Column("Margin.", role="margin"),
    },
    "pgd_l2": {
        "pgd_l2_{eps}_robust": Column(
            "Survives PGD.", board="pgd_l2_{eps}", role="robust", params=L2, ranks=1, csv_interval=False, **FLAG
        )
    },
    "autoattack_l2": {
        "autoattack_l2_{eps}_robust": Column(
            "Survives AutoAttack.",
            board="autoattack_l2_{eps}",
            role="robust",
            params=L2 | {"attack": "autoattack"},
            ranks=2,
            **FLAG,
        ),
        "autoattack_l2_{eps}_broken_by": Column(
            "Who broke it.", kind="text", role="broken_by", params=L2 | {"attack": "autoattack"}
        ),
        "autoattack_l2_{eps}_distance": Column("Distance.", role="distance", params=L2 | {"attack": "autoattack"}),
    },
    "stability": {
        "stability_{radius}": Column(
            "Relative gradient change.", board="stability_{radius}", direction="lower", role="stability"
        ),
        "stability_{radius}_bound": Column("Its bound.", companion_of="stability_{radius}", companion="bound"),
    },
    "curvature": {
        "gradient_norm": Column(
            "Norm of the gradient.", board="gradient_norm", direction="lower", role="gradient_norm"
        ),
        "hessian_norm": Column(
            "Norm of the Hessian.", board="hessian_norm", direction="lower", role="hessian_norm", shown=False
        ),
        "curvature": Column("Normalised curvature.", board="curvature", direction="lower", role="curvature"),
    },
    "bounds": {
        "bound_violations": Column(
            "Violations.",
            kind="count",
            board="bound_violations",
            aggregate="sum",
            direction="lower",
            role="violations",
        )
    },
}


def make_plan(
    defenses: dict[str, float] | None = None,
    seeds: tuple[int, ...] = (0, 1),
    dataset: str = "digits",
    primary_eps: float | None = 0.5,
    evaluations: tuple[str, ...] = tuple(COLUMNS),
    **extra_evaluations: dict[str, Any],
) -> dict[str, Any]:
    """Return a plan in the store's format; no cell exists yet."""
    defenses = defenses or DEFENSES
    specs = {key: {"evaluation": key} for key in evaluations} | extra_evaluations
    return {
        "format": PLAN_FORMAT,
        "command": f"python -m bench run --suite {dataset}",
        "created": "2026-01-02T03:04:05+00:00",
        "suite": {
            "name": dataset,
            "description": "A synthetic suite.",
            "dataset": dataset,
            "backbone": "convnet",
            "seeds": list(seeds),
            "threat": None if primary_eps is None else {"norm": "l2", "eps": primary_eps},
            "audit": 0,
            "holdout": 0,
            "defenses": list(defenses),
            "recipe": {"epochs": 30},
        },
        "overrides": {},
        "data": {
            "name": dataset,
            "original": True,
            "layout": "embedded",
            "classes": [str(k) for k in range(10)],
            "shape": [1, 8, 8],
            "train": {"n": 1437, "total": 1437, "fingerprint": "a" * 64},
            "test": {"n": 360, "total": 360, "fingerprint": "b" * 64},
            "note": "",
        },
        "environment": {
            "bench": "0.1.0",
            "python": "3.11.2",
            "torch": "2.11.0",
            "platform": "Linux x86_64",
            "device": "cpu",
            "device_name": "CPU",
            "threads": 1,
            "commit": "c" * 40,
            "dirty": False,
            "packages": {},
        },
        "evaluations": {key: _evaluation(key, **spec) for key, spec in specs.items()},
        "rows": [_plan_row(spelling, seed) for spelling in defenses for seed in seeds],
    }


def record(plan: dict[str, Any]) -> PlanRecord:
    """Return a plan as the store takes it."""
    return parse_plan(json.dumps(plan), "fabricated")


def _evaluation(key: str, evaluation: str, split: str = "test", limit: int | None = None) -> dict[str, Any]:
    made = _evaluation_of(key, evaluation, COLUMNS[evaluation], ARGUMENTS.get(evaluation, {}))
    return made | {"limit": limit, "split": split}


def evaluation(name: str, columns: dict[str, Column], **arguments: Any) -> dict[str, Any]:
    """Return an evaluation of a plan with columns of one's own."""
    return _evaluation_of(name, name, columns, arguments)


def _evaluation_of(key: str, name: str, columns: dict[str, Column], arguments: dict[str, Any]) -> dict[str, Any]:
    return {
        "evaluation": name,
        "n": 120,
        "arguments": arguments,
        "limit": None,
        "split": "test",
        "seed": 0,
        "source": "a paper",
        "version": 1,
        "description": f"Evaluation {key}.",
        "columns": {pattern: asdict(column) for pattern, column in columns.items()},
    }


def _plan_row(spelling: str, seed: int) -> dict[str, Any]:
    base, _, overrides = spelling.partition(":")
    return {
        "defense": spelling,
        "base": base,
        "seed": seed,
        "provenance": "trained here",
        "train_cell": name_of("train", spelling, seed),
        "evaluations": {},
        "description": f"The defense {base}.",
        "source": "a paper",
        "version": 1,
        "bibtex": "",
        "hyperparameters": dict(item.split("=") for item in overrides.split(",") if item),
        "recipe": {"epochs": 30},
        "backbone": "convnet",
    }


def name_of(*parts: object) -> str:
    """Return a cell id for anything."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def table_of(
    evaluation: str, spelling: str, seed: int, n: int, distance: float, eps: tuple[float, ...] = EPS
) -> pd.DataFrame:
    """Return the per-example table of one cell; same arguments, same table, same images broken by every attack."""
    entropy = int(name_of(spelling, seed)[:12], 16)
    rng = np.random.default_rng(entropy)
    breaking = distance * np.exp(np.random.default_rng(3).normal(size=n) + 0.3 * rng.normal(size=n))
    clean = rng.random(n) < 0.95
    values = np.exp(rng.normal(size=(n, 3)))
    values[rng.random(n) < 0.02] = np.nan
    table: dict[str, Any] = {"index": np.arange(n), "label": np.arange(n) % 10}
    if evaluation == "accuracy":
        table |= {"clean_correct": clean, "margin": np.where(clean, breaking, -1.0)}
    elif evaluation == "pgd_l2":
        table |= {f"pgd_l2_{e:g}_robust": clean & (breaking > 0.97 * e) for e in eps}
    elif evaluation == "autoattack_l2":
        robust = clean & (breaking > 0.5)
        table["autoattack_l2_0.5_robust"] = robust
        table["autoattack_l2_0.5_broken_by"] = np.where(robust, "", np.where(clean, "apgd_ce", "clean"))
        table["autoattack_l2_0.5_distance"] = np.where(robust, np.nan, np.minimum(breaking, 0.5))
    elif evaluation == "stability":
        for radius in (0.01, 0.1):
            table |= {f"stability_{radius:g}": radius * values[:, 0], f"stability_{radius:g}_bound": values[:, 1]}
    elif evaluation == "curvature":
        table |= dict(zip(("gradient_norm", "hessian_norm", "curvature"), values.T, strict=True))
    elif evaluation == "bounds":
        table["bound_violations"] = np.zeros(n)
    return pd.DataFrame(table)


def facts_of(table: pd.DataFrame) -> dict[str, Column]:
    """Return what the columns of a table are, of whichever evaluation they come."""
    found: dict[str, Column] = {}
    for evaluation, columns in COLUMNS.items():
        found |= expand_columns(columns, ARGUMENTS.get(evaluation, {}), table.columns)
    return found


def times(seconds: float) -> dict[str, float]:
    """Return the stored times of a computation that had its core to itself."""
    return {"cpu_seconds": seconds, "thread_seconds": seconds, "wall_seconds": seconds}


def write_cell(
    store: Store,
    cell: str,
    kind: str,
    info: dict[str, Any],
    tables: list[pd.DataFrame],
    more: dict[str, Column] | None = None,
    **arguments: Any,
) -> Lease:
    """Write a finished cell of that many chunks; `more` are columns that no evaluation above declares."""
    lease = store.leases.claim(cell, kind, {})
    assert lease is not None
    for number, table in enumerate(tables):
        facts = facts_of(table) | expand_columns(more or {}, arguments, table.columns)
        store.put_chunk(lease, number, table, None, {}, facts)
    store.finish(lease, info)
    return lease


def make_store(
    out: Path, plan: dict[str, Any], n: int = 120, chunk: int = 50, distances: dict[str, float] | None = None
) -> PlanRecord:
    """Fill a store for a plan: every training and every evaluation done; return the plan as it then reads."""
    distances = distances or DEFENSES
    with Store.open(out, create=True) as store:
        store._database.connection.execute("PRAGMA synchronous=OFF")  # nothing here must survive a crash
        number = store.plans.put(record(plan))
        for place, row in enumerate(plan["rows"]):
            spelling, seed = row["defense"], row["seed"]
            seconds = 4.0 * distances[spelling] * (1 + seed)
            lease = store.leases.claim(row["train_cell"], "train", {})
            assert lease is not None
            store.put_epoch(lease, {"epoch": 1, "loss": 1.0, "terms": {}, "train_accuracy": 0.9, **times(seconds)})
            store.finish(
                lease,
                {
                    "weights": name_of(spelling, seed, "w"),
                    "parameters": 1000,
                    "device": "cpu",
                    "threads": 1,
                    "images": 500,
                    "flops_per_image": 1e6 * distances[spelling],
                    **times(seconds),
                },
            )
            for key, facts in plan["evaluations"].items():
                size = n if facts["limit"] is None else min(n, facts["limit"])
                table = table_of(facts["evaluation"], spelling, seed, size, distances[spelling])
                cell = name_of(key, spelling, seed)
                pieces = [table[i : i + chunk] for i in range(0, size, chunk)]
                info = {"forwards": 40 * size, "backwards": 20 * size, "images": size, **times(2.5 + seed)}
                write_cell(store, cell, "evaluation", info, pieces)
                store.plans.bind_all([(number, place, key, cell)])
        return store.plans.latest()
