"""A realistic synthetic Board: numbers drawn from a toy model in which flat defenses break later.

Every image i of a defense has a breaking distance r_i; it is robust at eps when r_i > eps. Curvature, gradient norm
and stability are log-normal around values like the paper's, so that the figures have something to show.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from bench.reports.board import Board, BoardColumn, Cell, Row

from bench.records import Column

EPS = (0.05, 0.1, 0.15, 0.2, 0.5)
RADII = (0.001, 0.003, 0.01, 0.03, 0.1)
STAGES = ("apgd_ce", "apgd_t", "fab_t", "square")
# name: (median breaking distance, gradient norm, curvature, training cost)
DEFENSES = {
    "standard": (0.26, 9.0, 41.0, 1.0),
    "lcnn": (0.29, 9.5, 3.6, 1.09),
    "gradreg": (0.55, 3.1, 37.0, 2.1),
    "lcnn_gradreg": (0.60, 3.3, 3.5, 2.3),
    "cure": (0.52, 3.4, 30.0, 4.3),
    "softplus_wd": (0.28, 9.1, 4.3, 1.0),
    "adversarial_training": (0.70, 2.8, 27.0, 3.1),
    "vanilla": (0.24, 10.0, 55.0, 0.9),
}


def make_board(
    names: dict[str, tuple[float, float, float, float]] | None = None,
    seeds: int = 2,
    n: int = 200,
    description: str | None = None,
    trust: bool = True,
    data: str = "digits",
    random_state: int = 0,
) -> Board:
    """Return a board of `names` × `seeds` on `n` images; same arguments, same board."""
    names = names or DEFENSES
    rng = np.random.default_rng(random_state)
    difficulty = rng.normal(size=n)
    plan = _plan(names, seeds, n, description, data)
    tables = [
        _examples(name, seed, facts, n, difficulty, rng) for name, facts in names.items() for seed in range(seeds)
    ]
    examples = pd.concat(tables, ignore_index=True)
    columns = _columns()
    ranking = "autoattack_l2_0.5"
    rows = [_row(name, facts, examples, columns, plan, trust) for name, facts in names.items()]
    rows = _ranked(rows, ranking)
    logs = {(name, seed): _log(facts, seed) for name, facts in names.items() for seed in range(seeds)}
    return Board(plan, tuple(rows), tuple(columns), examples, ranking, 0.034, logs)


def make_images(
    board: Board, count: int = 8, side: int = 8, channels: int = 1
) -> dict[tuple[str, int], dict[str, Any]]:
    """Return `(defense, seed) -> {"index", "clean", "adversarial", "prediction"}` as the store keeps them."""
    rng = np.random.default_rng(7)
    ramp = np.linspace(0, 1, side)
    pictures = {}
    for (name, seed), table in board.examples.groupby(["defense", "seed"]):
        broken = table[table["clean_correct"] & ~table["autoattack_l2_0.5_robust"]]["index"].to_numpy()[:count]
        phase = rng.uniform(0, 3, (len(broken), channels, 1, 1))
        clean = 0.5 + 0.5 * np.sin(6 * (ramp[None, None, :, None] * phase + ramp[None, None, None, :]))
        delta = rng.normal(size=clean.shape)
        delta *= 0.5 / np.linalg.norm(delta.reshape(len(broken), -1), axis=1).reshape(-1, 1, 1, 1)
        pictures[str(name), int(seed)] = {
            "index": broken,
            "clean": clean.astype("float32"),
            "adversarial": np.clip(clean + delta, 0, 1).astype("float32"),
            "prediction": rng.integers(0, 10, len(broken)),
        }
    return pictures


def wilson(value: float, n: int) -> tuple[float, float]:
    """Return the 95 % Wilson interval of a fraction."""
    z, k = 1.959963984540054, round(value * n)
    p = k / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return max(0.0, centre - half), min(1.0, centre + half)


def _examples(
    name: str, seed: int, facts: tuple[float, ...], n: int, difficulty: np.ndarray, rng: np.random.Generator
) -> pd.DataFrame:
    distance, gradient, curvature, _ = facts
    breaking = distance * np.exp(-0.5 * difficulty + 0.25 * rng.normal(size=n))
    clean = rng.random(n) < 0.985
    spread = np.exp(0.6 * difficulty + 0.4 * rng.normal(size=n))
    table: dict[str, Any] = {"defense": name, "seed": seed, "index": np.arange(n), "label": np.arange(n) % 10}
    table |= {"clean_correct": clean, "margin": np.where(clean, 8 * breaking, -1.0)}
    for eps in EPS:
        table[f"pgd_l2_{eps:g}_robust"] = clean & (breaking > eps * 0.98)
    robust = clean & (breaking > 0.5)
    stage = np.array(STAGES)[np.minimum(rng.geometric(0.7, n) - 1, 3)]
    table["autoattack_l2_0.5_robust"] = robust
    table["autoattack_l2_0.5_broken_by"] = np.where(robust, "", np.where(clean, stage, "clean"))
    table["autoattack_l2_0.5_distance"] = np.where(robust, np.nan, np.minimum(breaking, 0.5))
    c = curvature * spread
    g = gradient * np.exp(0.5 * difficulty + 0.5 * rng.normal(size=n))
    table |= {"gradient_norm": g, "hessian_norm": c * g, "curvature": c, "curvature_paper": 0.9 * c}
    for radius in RADII:
        measured = 1.4 * -np.expm1(-0.25 * radius * c)
        table[f"stability_{radius:g}"] = measured
        table[f"stability_{radius:g}_worst"] = np.minimum(2.2 * measured, 2.0)
        table[f"stability_{radius:g}_approximation"] = radius * c
        table[f"stability_{radius:g}_bound"] = np.minimum(np.expm1(np.minimum(radius * c * 1.3, 30)), 1e6)
    return pd.DataFrame(table)


def _columns() -> list[BoardColumn]:
    flag: dict[str, Any] = {"unit": "", "kind": "flag", "aggregate": "fraction", "direction": "higher"}
    columns = [
        BoardColumn(
            "clean_accuracy",
            Column(
                "Fraction of test images classified right.",
                **flag,
                formula="mean(argmax f(x) = y)",
                source="Krizhevsky 2009",
            ),
            "accuracy",
            "clean_correct",
        )
    ]
    columns += [
        BoardColumn(
            f"pgd_l2_{e:g}",
            Column(
                "Still right after PGD with 40 steps.",
                **flag,
                formula="mean(argmax f(x + δ) = y)",
                source="Madry et al. 2018, section 2",
            ),
            "pgd_l2",
            f"pgd_l2_{e:g}_robust",
            e,
        )
        for e in EPS
    ]
    columns.append(
        BoardColumn(
            "autoattack_l2_0.5",
            Column(
                "Still right after AutoAttack.",
                **flag,
                formula="worst case of four attacks",
                source="Croce and Hein 2020",
            ),
            "autoattack_l2",
            "autoattack_l2_0.5_robust",
            0.5,
        )
    )
    for name, formula in (("gradient_norm", "‖∇f‖"), ("hessian_norm", "‖∇²f‖₂"), ("curvature", "‖∇²f‖₂ / ‖∇f‖")):
        facts = Column(f"Mean {name.replace('_', ' ')} of the loss.", unit="per pixel-l2", direction="lower", formula=formula, source="Srinivas et al. 2022, eq. (2)")  # fmt: skip
        columns.append(BoardColumn(name, facts, "curvature", name))
    for r in RADII:
        facts = Column("Relative change of the gradient under noise.", direction="lower", formula="‖∇f(x+ε) − ∇f(x)‖ / ‖∇f(x)‖", source="Srinivas et al. 2022, Figure 2")  # fmt: skip
        columns.append(BoardColumn(f"stability_{r:g}", facts, "stability", f"stability_{r:g}", r))
    return columns


def _row(
    name: str,
    facts: tuple[float, ...],
    examples: pd.DataFrame,
    columns: list[BoardColumn],
    plan: dict[str, Any],
    trust: bool,
) -> Row:
    table = examples[examples["defense"] == name]
    cells = {}
    for column in columns:
        by_seed = table.groupby("seed")[column.example_column].mean()
        value, n = float(by_seed.mean()), int(table["index"].nunique())
        low, high = wilson(value, n) if column.facts.aggregate == "fraction" else (None, None)
        cells[column.name] = Cell(value, low, high, {int(s): float(v) for s, v in by_seed.items()}, n)
    rows = {r["seed"]: r for r in plan["rows"] if r["defense"] == name}
    cost = facts[3]
    return Row(
        rank=None,
        rank_low=None,
        rank_high=None,
        defense=name,
        anchor="".join(c if c.isalnum() else "-" for c in name),
        seeds=tuple(rows),
        n=int(table["index"].nunique()),
        cells=cells,
        trust="B" if trust else "",
        trust_failed=("G2",) if trust and cost > 2 else (),
        bound_violations=None if name == "vanilla" else 0,
        train_seconds=6.2 * cost,
        train_cost=cost,
        eval_seconds=48.0,
        eval_forwards=1_950_000,
        eval_backwards=410_000,
        facts=rows,
    )


def _ranked(rows: list[Row], ranking: str) -> list[Row]:
    from dataclasses import replace

    rows = sorted(rows, key=lambda r: -(r.cells[ranking].value or 0))
    overlap = [[_tied(a.cells[ranking], b.cells[ranking]) for b in rows] for a in rows]
    return [
        replace(r, rank=i + 1, rank_low=1 + sum(not t for t in overlap[i][:i]), rank_high=len(rows) - sum(not t for t in overlap[i][i + 1 :]))
        for i, r in enumerate(rows)
    ]  # fmt: skip


def _tied(a: Cell, b: Cell) -> bool:
    assert a.low is not None and b.low is not None and a.high is not None and b.high is not None
    return a.low <= b.high and b.low <= a.high


def _log(facts: tuple[float, ...], seed: int) -> list[dict[str, Any]]:
    records = []
    for epoch in range(1, 31):
        loss = 2.2 * float(np.exp(-epoch / 6)) + 0.03 + 0.01 * seed
        records.append({
            "epoch": epoch, "loss": loss, "terms": {"cross_entropy": loss}, "train_accuracy": 1 - 0.4 * loss / 2.3,
            "holdout_accuracy": None, "lr": 0.1, "seconds": 0.2 * facts[3], "sum_beta": 85 / epoch,
        })  # fmt: skip
    return records


def _plan(names: dict[str, Any], seeds: int, n: int, description: str | None, data: str) -> dict[str, Any]:
    doc = description if description is not None else (
        "Train with the plain loss.\n\nSrinivas et al. 2022, section 5. Nothing differs from the shared recipe.\n"
    )  # fmt: skip
    recipe = {"epochs": 30, "batch_size": 64, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "onecycle"}
    rows = [
        {
            "defense": name, "base": name.split(":")[0], "seed": seed, "provenance": "trained here",
            "train_cell": f"{i:02x}{seed:02x}" * 16, "evaluations": {"accuracy": f"a{i:01x}{seed:02x}" * 16},
            "description": doc, "source": "Srinivas et al. 2022, section 5", "version": 1,
            "bibtex": "@inproceedings{srinivas2022,\n  title={Efficient Training of Low-Curvature Neural Networks},\n  year={2022}\n}",
            "hyperparameters": {"lambda_beta": 0.001, "lambda_gamma": 0.001}, "recipe": recipe, "backbone": "convnet",
        }
        for i, name in enumerate(names) for seed in range(seeds)
    ]  # fmt: skip
    evaluations = {
        key: {"evaluation": key, "arguments": {"eps": list(EPS)} if "l2" in key else {}, "limit": n, "split": "test",
              "seed": 0, "source": "Croce and Hein 2020", "version": 1, "description": f"Measure {key}.", "columns": {}}
        for key in ("accuracy", "pgd_l2", "autoattack_l2", "curvature", "stability")
    }  # fmt: skip
    return {
        "format": 1,
        "command": "python -m bench run --suite digits --out results/digits",
        "created": "2026-03-14T09:26:53+00:00",
        "suite": {
            "name": "digits", "description": "Eight defenses on scikit-learn's digits.", "dataset": "digits",
            "backbone": "convnet", "seeds": list(range(seeds)), "primary_eps": 0.5, "audit": 0, "holdout": 0,
            "defenses": list(names), "recipe": recipe,
        },
        "overrides": {"epochs": 30},
        "data": {
            "name": data, "original": data == "digits", "layout": "scikit-learn", "classes": [str(k) for k in range(10)],
            "shape": [1, 8, 8], "train": {"n": 1437, "total": 1437, "fingerprint": "ab" * 32},
            "test": {"n": n, "total": 360, "fingerprint": "cd" * 32},
            "note": "" if data == "digits" else "JPEG copies of the images; not the original files.",
        },
        "environment": {
            "bench": "0.1.0", "python": "3.11.4", "torch": "2.15.0", "device": "cpu", "device_name": "x86-64, 2 cores",
            "platform": "Linux", "commit": "7f0b8a4", "dirty": True, "packages": {"numpy": "2.4.6", "pandas": "3.1.1"},
        },
        "evaluations": evaluations,
        "rows": rows,
    }  # fmt: skip
