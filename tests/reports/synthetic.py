"""A realistic result folder without a run: a toy model of defenses, written into a real store and read as a board.

Every image i of a defense has a breaking distance r_i; it is robust at eps when r_i > eps. Curvature, gradient norm
and stability are log-normal around values like the paper's, so that the figures have something to show.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench.core.records import Column, expand_columns
from bench.reports.board.build import build
from bench.reports.board.model import Board
from bench.store.plan_record import PLAN_FORMAT, parse_plan
from bench.store.store import Store
from tests.reports import trust_checks

EPS = (0.05, 0.1, 0.15, 0.2, 0.5)
RADII = (0.001, 0.003, 0.01, 0.03, 0.1)
ARGUMENTS: dict[str, dict[str, Any]] = {
    "pgd_l2": {"eps": list(EPS)},
    "autoattack_l2": {"eps": [0.5]},
    "stability": {"radius": list(RADII)},
    "bounds": {"radius": list(RADII)},
}
STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")
# name: (median breaking distance, gradient norm, curvature, training cost)
DEFENSES = {
    "standard": (0.30, 9.0, 41.0, 1.0),
    "lcnn": (0.34, 9.5, 3.6, 1.09),
    "gradreg": (0.60, 3.1, 37.0, 2.1),
    "lcnn_gradreg": (0.64, 3.3, 3.5, 2.3),
    "cure": (0.52, 3.4, 30.0, 4.3),
    "softplus_wd": (0.31, 9.1, 4.3, 1.0),
    "adversarial_training": (0.66, 2.8, 27.0, 3.1),
    "vanilla": (0.26, 10.0, 55.0, 0.9),
}
_FLAG: dict[str, Any] = {"kind": "flag", "aggregate": "fraction", "direction": "higher", "interval": "wilson"}
_AUTOATTACK = {"norm": "l2", "attack": "autoattack"}
_LOWER: dict[str, Any] = {"direction": "lower", "source": "Srinivas et al. 2022"}
COLUMNS: dict[str, dict[str, Column]] = {
    "accuracy": {
        "clean_correct": Column(
            "The unperturbed image is classified correctly.",
            board="clean_accuracy",
            role="clean",
            formula="argmax_k z_k(x) = y",
            source="protocol",
            **_FLAG,
        ),
        "margin": Column("Logit of the true class minus the largest other logit.", "logits", role="margin"),
    },
    "pgd_l2": {
        "pgd_l2_{eps}_robust": Column(
            "Correctly classified, and PGD finds no adversarial example within eps.",
            board="pgd_l2_{eps}",
            role="robust",
            params={"norm": "l2", "attack": "pgd"},
            ranks=1,
            csv_interval=False,
            formula="argmax f(x') = y",
            source="Madry et al. 2018",
            **_FLAG,
        )
    },
    "autoattack_l2": {
        "autoattack_l2_{eps}_robust": Column(
            "Correctly classified, and none of AutoAttack's four attacks finds an adversarial example within eps.",
            board="autoattack_l2_{eps}",
            role="robust",
            params=_AUTOATTACK,
            ranks=2,
            formula="argmax f(x') = y",
            source="Croce and Hein 2020",
            **_FLAG,
        ),
        "autoattack_l2_{eps}_broken_by": Column(
            "The stage that broke the example first.", kind="text", role="broken_by", params=_AUTOATTACK
        ),
        "autoattack_l2_{eps}_distance": Column(
            "Size of the perturbation that broke the example.", role="distance", params=_AUTOATTACK
        ),
    },
    "curvature": {
        "gradient_norm": Column(
            "Norm of the loss's gradient.",
            "1/pixel",
            board="gradient_norm",
            formula="‖∇f‖₂",
            role="gradient_norm",
            **_LOWER,
        ),
        "hessian_norm": Column(
            "Norm of the Hessian.",
            "1/pixel²",
            board="hessian_norm",
            formula="‖∇²f‖₂",
            role="hessian_norm",
            shown=False,
            **_LOWER,
        ),
        "curvature": Column(
            "Normalised curvature.", "1/pixel", board="curvature", formula="‖∇²f‖₂/‖∇f‖₂", role="curvature", **_LOWER
        ),
        "curvature_share_activations": Column(
            "Share of the activations in the curvature.", role="share", heading="activations"
        ),
    },
    "stability": {
        "stability_{radius}": Column(
            "Relative change of the gradient.",
            board="stability_{radius}",
            role="stability",
            formula="‖∇f(x+ε) − ∇f(x)‖ / ‖∇f(x)‖",
            **_LOWER,
        ),
        "stability_{radius}_worst": Column(
            "The same along the Hessian's top eigenvector.", companion_of="stability_{radius}", companion="worst"
        ),
        "stability_{radius}_approximation": Column(
            "First-order approximation of the worst change.",
            companion_of="stability_{radius}",
            companion="approximation",
        ),
        "stability_{radius}_bound": Column(
            "Upper sum of Proposition 1 along the same eigenvector.",
            companion_of="stability_{radius}",
            companion="bound",
        ),
    },
    "bounds": {
        "bound_violations": Column(
            "Proved bounds that do not hold.",
            kind="count",
            board="bound_violations",
            role="violations",
            aggregate="sum",
            direction="lower",
        ),
        "bounds_undecided": Column("Statements that could not be decided.", kind="count", role="undecided"),
        "tightness_gradient_{radius}": Column(
            "Proposition 1, sharp form: measured over bound.",
            role="tightness",
            heading="Proposition 1, sharp form",
            params={"direction": "random"},
        ),
        "tightness_gradient_{radius}_worst": Column(
            "Proposition 1, sharp form: the same in the worst direction.",
            role="tightness",
            heading="Proposition 1, sharp form",
            params={"direction": "worst"},
        ),
        "tightness_softmax": Column(
            "Lemma on softmax: measured over bound.", role="tightness", heading="Lemma on softmax"
        ),
        "ratio_quadratic_{radius}": Column(
            "The quadratic approximation: measured over stated.",
            role="rate",
            heading="The quadratic approximation",
            params={"direction": "random"},
        ),
        "certified_radius": Column(
            "Radius within which the class cannot change.", role="certified", params={"norm": "l2"}
        ),
        "lipschitz_constant": Column("Lipschitz constant of the margin.", role="lipschitz"),
        "local_slope": Column("Largest slope of the margin that was met.", role="local_slope"),
    },
    "trust": trust_checks.COLUMNS,
}


def make_board(out: Path | None = None, **options: Any) -> Board:
    """Return the board of a synthetic store (see `fill`), kept in `out` or thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        target = out or Path(folder)
        fill(target, **options)
        with Store.open(target) as store, trust_checks.in_place():
            return build(store)


def fill(
    out: Path,
    names: dict[str, tuple[float, float, float, float]] | None = None,
    seeds: int = 2,
    n: int = 200,
    trust: bool = True,
    grades: dict[tuple[str, int], str] | None = None,
    shape: tuple[int, int, int] = (1, 8, 8),
    pictures: int = 8,
    failed: tuple[str, ...] = (),
    violated: tuple[str, ...] = (),
    evaluations: tuple[str, ...] = tuple(COLUMNS),
    **facts: Any,
) -> None:
    """Write a finished run of `names` × `seeds` on `n` images into the store of `out`.

    Args:
        trust: whether trust was assessed.
        grades: (defense, seed) to its grade, of `trust_checks.MARKS`; "B", or "B soft" where training is costly.
        pictures: broken images stored per model.
        failed: defenses whose AutoAttack failed.
        violated: defenses with bound violations.
        facts: entries of the plan's "data" and "rows" to be replaced (`data_…`, `row_…`).
    """
    names = names or DEFENSES
    evaluations = tuple(key for key in evaluations if trust or key != "trust")
    plan = make_plan(names, seeds, n, shape, evaluations, facts)
    difficulty = np.random.default_rng(0).normal(size=n)
    with Store.open(out, create=True) as store:
        number = store.plans.put(parse_plan(json.dumps(plan), "synthetic"))
        for place, row in enumerate(plan["rows"]):
            name, seed = row["defense"], row["seed"]
            rng = np.random.default_rng(int(_id(list(names).index(name), seed)[:12], 16))
            _train(store, row["train_cell"], names[name], seed)
            table = examples(names[name], n, difficulty, rng, nulls=3)
            usual = "B soft" if names[name][3] > 2 else "B"
            graded = trust_checks.table(n, (grades or {}).get((name, seed), usual))
            table = pd.concat([table, graded], axis=1)
            table["bound_violations"] = np.where(np.arange(n) == 7, float(name in violated), 0.0)
            for key in evaluations:
                cell = _id(key, name, seed)
                store.plans.bind_all([(number, place, key, cell)])
                lease = store.leases.claim(cell, "evaluation", {})
                assert lease is not None
                if name in failed and key == "autoattack_l2":
                    store.fail(lease, "AutoAttack: expected finite logits, got NaN on 3 of 200 images. Mend the model.")
                    continue
                images = _images(table, shape, pictures, rng) if key == "autoattack_l2" else None
                mine = _columns_of(key, table)
                columns = expand_columns(COLUMNS[key], ARGUMENTS.get(key, {}), mine.columns)
                store.put_chunk(lease, 0, mine, images, {}, columns)
                store.finish(lease, {"forwards": 1900 * n, "backwards": 400 * n, "images": n, **_times(9.5)})


RECIPE = {"epochs": 30, "batch_size": 64, "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "schedule": "onecycle"}
ROW = {
    "provenance": "trained here",
    "description": "Train with a penalty on the curvature.\n\nSrinivas et al. 2022, section 3. What differs from "
    "the shared recipe:\n    loss = cross-entropy + λ·R(f)\nand nothing else.",
    "source": "Srinivas et al. 2022, section 5",
    "version": 1,
    "bibtex": "@inproceedings{srinivas2022,\n  title = {Efficient Training of Low-Curvature Neural Networks},\n"
    "  year = {2022},\n}",
    "hyperparameters": {"lambda_beta": 0.001, "lambda_gamma": 0.001},
    "recipe": RECIPE,
    "backbone": "convnet",
    "evaluations": {},
}
ENVIRONMENT = {
    "bench": "0.1.0",
    "python": "3.11.4",
    "torch": "2.15.0",
    "device": "cpu",
    "device_name": "x86-64, 2 cores",
    "platform": "Linux",
    "commit": "7f0b8a4",
    "dirty": True,
    "packages": {"numpy": "2.4.6", "pandas": "3.1.1"},
}


def _data(n: int, shape: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "name": "digits",
        "original": True,
        "layout": "scikit-learn",
        "classes": [str(k) for k in range(10)],
        "shape": list(shape),
        "train": {"n": 1437, "total": 1437, "fingerprint": "ab" * 32},
        "test": {"n": n, "total": max(n, 360), "fingerprint": "cd" * 32},
        "note": "",
    }


def _suite(defenses: list[str], seeds: int) -> dict[str, Any]:
    return {
        "name": "digits",
        "description": "Every defense on scikit-learn's handwritten digits.",
        "dataset": "digits",
        "backbone": "convnet",
        "seeds": list(range(seeds)),
        "threat": {"norm": "l2", "eps": 0.5},
        "audit": 0,
        "holdout": 0,
        "defenses": defenses,
        "recipe": RECIPE,
    }


def _of(part: str, facts: dict[str, Any]) -> dict[str, Any]:
    return {k.removeprefix(part): v for k, v in facts.items() if k.startswith(part)}


def make_plan(
    names: dict[str, Any],
    seeds: int,
    n: int,
    shape: tuple[int, int, int],
    evaluations: tuple[str, ...],
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Return a plan in the store's format; facts `data_<key>` and `row_<key>` replace single entries."""
    return {
        "format": PLAN_FORMAT,
        "command": "python -m bench run --suite digits --out results/digits",
        "created": "2026-03-14T09:26:53+00:00",
        "suite": _suite(list(names), seeds),
        "overrides": {"epochs": 30},
        "data": _data(n, shape) | _of("data_", facts),
        "environment": ENVIRONMENT,
        "evaluations": {key: _evaluation(key, n) for key in evaluations},
        "rows": [
            ROW
            | _of("row_", facts)
            | {"defense": name, "base": name.split(":")[0], "seed": seed, "train_cell": _id("train", name, seed)}
            for name in names
            for seed in range(seeds)
        ],
    }


def examples(
    facts: tuple[float, ...], n: int, difficulty: np.ndarray, rng: np.random.Generator, nulls: int
) -> pd.DataFrame:
    """Return the joined per-example table of one model."""
    distance, gradient, curvature, _ = facts
    breaking = distance * np.exp(-0.5 * difficulty + 0.2 * rng.normal(size=n))
    clean = rng.random(n) < 0.985
    spread = np.exp(0.6 * difficulty + 0.4 * rng.normal(size=n))
    table: dict[str, Any] = {"index": np.arange(n), "label": np.arange(n) % 10}
    table |= {"clean_correct": clean, "margin": np.where(clean, 8 * breaking, -1.0)}
    table |= {f"pgd_l2_{e:g}_robust": clean & (breaking > e * 0.98) for e in EPS}
    robust = clean & (breaking > 0.5)
    stage = np.array(STAGES)[np.minimum(rng.geometric(0.7, n) - 1, 3)]
    table["autoattack_l2_0.5_robust"] = robust
    table["autoattack_l2_0.5_broken_by"] = np.where(robust, "", np.where(clean, stage, "clean"))
    table["autoattack_l2_0.5_distance"] = np.where(robust, np.nan, np.where(clean, np.minimum(breaking, 0.5), 0.0))
    c = curvature * spread
    c[:nulls] = np.nan
    g = gradient * np.exp(0.5 * difficulty + 0.5 * rng.normal(size=n))
    share = rng.uniform(0.3, 0.9, n)
    table |= {"gradient_norm": g, "hessian_norm": c * g, "curvature": c, "curvature_share_activations": share}
    for radius in RADII:
        measured = 1.4 * -np.expm1(-0.05 * radius * c)
        worst = 1.6 * -np.expm1(-0.55 * radius * c)
        table |= {f"stability_{radius:g}": measured, f"stability_{radius:g}_worst": worst}
        table[f"stability_{radius:g}_approximation"] = radius * c
        table[f"stability_{radius:g}_bound"] = np.expm1(np.minimum(radius * c * 1.05, 600))
    for radius in RADII[::2]:
        table[f"tightness_gradient_{radius:g}"] = np.exp(-radius * c)
        table[f"tightness_gradient_{radius:g}_worst"] = np.exp(-radius * c / 2)
        table[f"ratio_quadratic_{radius:g}"] = 2 * radius * c
    table |= {"tightness_softmax": 1 - share, "bounds_undecided": np.arange(n) % 97 == 5}
    table |= {"certified_radius": breaking / 9, "lipschitz_constant": 9.0 * gradient, "local_slope": g}
    return pd.DataFrame(table)


def _evaluation(key: str, n: int) -> dict[str, Any]:
    return {
        "evaluation": key,
        "arguments": ARGUMENTS.get(key, {}),
        "limit": n,
        "n": n,
        "split": "test",
        "seed": 0,
        "source": "Croce and Hein 2020",
        "version": 1,
        "description": f"Measure {key}.",
        "columns": {pattern: asdict(column) for pattern, column in COLUMNS[key].items()},
    }


def _columns_of(key: str, table: pd.DataFrame) -> pd.DataFrame:
    stems = tuple(pattern.split("{")[0] for pattern in COLUMNS[key])
    return table[["index", "label", *(c for c in table.columns if c.startswith(stems))]]


def _images(table: pd.DataFrame, shape: tuple[int, int, int], count: int, rng: np.random.Generator) -> dict[str, Any]:
    """Return pictures of the first broken images: waves, and noise of exactly the breaking distance."""
    broken = table[(table["autoattack_l2_0.5_distance"] > 0)][:count]
    m, ramp = len(broken), np.linspace(0, 1, shape[1])
    phase = rng.uniform(0, 3, (m, shape[0], 1, 1))
    clean = 0.5 + 0.3 * np.sin(6 * (ramp[None, None, :, None] * phase + ramp[None, None, None, :]))
    delta = rng.normal(size=clean.shape)
    size = np.linalg.norm(delta.reshape(m, -1), axis=1) / broken["autoattack_l2_0.5_distance"].to_numpy()
    return {
        "index": broken["index"].to_numpy(),
        "clean": clean.astype("float32"),
        "adversarial": (clean + delta / size.reshape(-1, 1, 1, 1)).astype("float32"),
        "prediction": (broken["label"].to_numpy() + 1 + rng.integers(0, 8, m)) % 10,
    }


def _train(store: Store, cell: str, facts: tuple[float, ...], seed: int) -> None:
    lease = store.leases.claim(cell, "train", {})
    assert lease is not None
    for epoch in range(1, 31):
        loss = 2.2 * float(np.exp(-epoch / 6)) + 0.03 + 0.01 * seed + 0.02 * facts[3]
        record = {"epoch": epoch, "loss": loss, "terms": {"cross_entropy": loss}, "train_accuracy": 1 - 0.17 * loss}
        record |= {"holdout_accuracy": None, "lr": 0.1, **_times(0.2 * facts[3])}
        if facts[2] < 5:
            record |= {"sum_beta": 85 / epoch, "sum_abs_log_gamma": 46 / epoch, "max_sigma_error": 0.02}
        store.put_epoch(lease, record)
    info = {
        "weights": _id("weights", cell),
        "parameters": 9418,
        "device": "cpu",
        "images": 30 * 1437,
        "flops_per_image": 1.2e6 * facts[3],
        **_times(6.2 * facts[3] + 0.4 * seed),
    }
    store.finish(lease, info)


def _times(seconds: float) -> dict[str, float]:
    return {"cpu_seconds": seconds, "thread_seconds": seconds, "wall_seconds": seconds}


def _id(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()
