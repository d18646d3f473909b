"""The Python calls: evaluate any model, benchmark it in RobustBench's signature, load results and models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bench.config.defense_spec import parse_defense_spec
from bench.config.evaluation_config import EvaluationConfig
from bench.config.suite_file import load_suite
from bench.core import registry
from bench.core.errors import UsageError
from bench.core.recipe import Recipe
from bench.core.records import Evaluation
from bench.data import catalog as datasets
from bench.data.pixels import to_unit
from bench.data.split import Split
from bench.measuring.model_contract import check_model
from bench.measuring.runner import evaluate_chunks
from bench.store.plan_record import PlanRecord
from bench.store.store import Store

_THREATS = {"L2": ("l2", 0.5), "Linf": ("linf", 8 / 255)}  # RobustBench's names and budgets


def evaluate(
    model: nn.Module,
    *,
    suite: str | None = None,
    data: tuple[Tensor, Tensor] | None = None,
    evaluations: Sequence[str] | None = None,
    eps: Sequence[float] | float | None = None,
    limit: int | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    batch_size: int | None = None,
    data_dir: str | Path | None = None,
) -> pd.DataFrame:
    """Return a per-example table of a trained model: one row per image, one column per quantity.

    Args:
        model: float32 (B, C, H, W) in [0, 1] → logits (B, K), normalisation inside. Left as it was found.
        suite: name or file of a suite, whose data set and evaluations are used; or
        data: images (N, C, H, W) float in [0, 1] (or uint8) and labels (N,).
        evaluations: names; None: the suite's, or with `data` accuracy, pgd_l2, autoattack_l2, stability and curvature.
        eps: budgets of every attack, in the norm's own units on [0, 1] pixels; None: the suite's, or 0.5.
        limit: first N images.
        seed: of the random draws (with `data`; a suite brings its own).
        device: where; None: where the model's parameters are.
        batch_size: images per call; None: what memory should hold.
        data_dir: where the suite's data set is looked for first.

    Returns:
        Columns `index`, `label`, then those of each evaluation. `attrs["cost"]` has forwards, backwards and seconds
        of each evaluation; `attrs["bounds"]` the number of violations, where bounds were checked.

    Raises:
        UsageError: neither or both of `suite` and `data`, an unknown name, or a model that breaks the contract.
    """
    if (suite is None) == (data is None):
        raise UsageError("evaluate: expected either suite= or data=, got both or neither. Give one of them.")
    split, entries, classes = _from_suite(suite, limit, data_dir) if suite else _from_data(data, limit, seed)
    chosen = _choose(entries, evaluations, eps, seed, named=suite is not None)
    target = torch.device(device) if device is not None else _device_of(model)
    with _moved(model, target):
        x = to_unit(torch.tensor(split.images[:2])).to(target)
        k = check_model(model, x, classes)
        if len(split) and int(split.labels.max()) >= k:
            raise UsageError(f"evaluate: expected labels below {k} (the logits' width), got {int(split.labels.max())}.")
        return _tables(model, split, chosen, target, batch_size)


def _tables(
    model: nn.Module, split: Split, entries: Sequence[EvaluationConfig], device: torch.device, batch_size: int | None
) -> pd.DataFrame:
    table = pd.DataFrame({"index": np.arange(len(split)), "label": split.labels})
    cost: dict[str, dict[str, float]] = {}
    for entry in entries:
        evaluation: Evaluation = registry.evaluations.get(entry.evaluation)
        chunks = list(
            evaluate_chunks(
                evaluation,
                model,
                split.first(entry.limit),
                device,
                arguments=dict(entry.arguments),
                seed=entry.seed,
                batch_size=batch_size,
            )
        )
        part = pd.concat([c.table for c in chunks], ignore_index=True).drop(columns="label")
        new = [c for c in part.columns if c == "index" or c not in table.columns]
        table = table.merge(part[new], on="index", how="left", validate="one_to_one")
        cost[entry.key] = {n: sum(c.info[n] for c in chunks) for n in ("forwards", "backwards", "seconds")}
    table.attrs["cost"] = cost
    if "bound_violations" in table:
        table.attrs["bounds"] = {"violations": int(table["bound_violations"].fillna(0).sum())}
    return table


def _from_suite(
    suite: str, limit: int | None, data_dir: str | Path | None
) -> tuple[Split, tuple[EvaluationConfig, ...], int]:
    loaded = load_suite(suite).with_overrides(limit=limit)
    dataset = datasets.load(loaded.dataset, data_dir=data_dir, limit=limit, need_train=False)
    entries = tuple(e for e in loaded.evaluations if e.split == "test")
    return dataset.test, entries, len(dataset.classes)


def _from_data(
    data: tuple[Tensor, Tensor] | None, limit: int | None, seed: int
) -> tuple[Split, tuple[EvaluationConfig, ...], None]:
    assert data is not None  # narrows the type; the caller has checked
    images, labels = (v.detach().cpu().numpy() if isinstance(v, Tensor) else np.asarray(v) for v in data)
    if images.ndim != 4 or labels.shape != (len(images),):
        raise UsageError(
            f"evaluate: expected images (N, C, H, W) and labels (N,), got {images.shape} and {labels.shape}."
        )
    if images.dtype != np.uint8:
        images = images.astype(np.float32)
        low, high = (float(images.min()), float(images.max())) if images.size else (0.0, 0.0)
        if not (low >= 0.0 and high <= 1.0):
            raise UsageError(
                f"evaluate: expected pixels in [0, 1], got [{low:g}, {high:g}]. "
                "Put normalisation inside the model and pass unnormalised images."
            )
    if not np.issubdtype(labels.dtype, np.integer) or (labels < 0).any():
        raise UsageError(f"evaluate: expected labels 0, 1, …, got {labels.dtype}. Pass class numbers.")
    split = Split.of(images, labels.astype(np.int64)).first(limit)
    names = ("accuracy", "pgd_l2", "autoattack_l2", "stability", "curvature")
    return split, tuple(_entry(n, seed) for n in names), None


def _entry(name: str, seed: int) -> EvaluationConfig:
    entry = registry.evaluations.get(name)
    arguments = {k: v for k, v in entry.hyperparameters.items() if v is not ...}
    return EvaluationConfig(key=name, evaluation=name, arguments=arguments, limit=None, split="test", seed=seed)


def _choose(
    entries: Sequence[EvaluationConfig],
    names: Sequence[str] | None,
    eps: Sequence[float] | float | None,
    seed: int,
    *,
    named: bool,
) -> list[EvaluationConfig]:
    """Return the entries asked for, by name, with their budgets."""
    known = {e.key: e for e in entries}
    if names is not None:
        entries = [known[n] if named and n in known else _entry(n, seed) for n in names]
    if eps is None:
        return list(entries)
    budgets = [float(eps)] if isinstance(eps, int | float) else [float(e) for e in eps]
    return [e if "eps" not in e.arguments else _with_arguments(e, {**e.arguments, "eps": budgets}) for e in entries]


def _with_arguments(entry: EvaluationConfig, arguments: dict[str, Any]) -> EvaluationConfig:
    return EvaluationConfig(
        key=entry.key,
        evaluation=entry.evaluation,
        arguments=arguments,
        limit=entry.limit,
        split=entry.split,
        seed=entry.seed,
    )


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@contextmanager
def _moved(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Have the model on a device and in eval mode inside the block, and as it was afterwards."""
    home, modes = _device_of(model), {m: m.training for m in model.modules()}
    model.to(device).eval()
    try:
        yield
    finally:
        model.to(home)
        for module, training in modes.items():
            module.training = training


def benchmark(  # noqa: PLR0917 - RobustBench's signature
    model: nn.Module,
    n_examples: int = 10_000,
    dataset: str = "cifar10",
    threat_model: str = "Linf",
    to_disk: bool = False,
    model_name: str | None = None,
    data_dir: str | Path | None = "./data",
    device: str | torch.device | None = None,
    batch_size: int = 32,
    eps: float | None = None,
) -> tuple[float, float]:
    """Return clean and AutoAttack accuracy as fractions, in RobustBench's signature.

    Args:
        model: float32 (B, C, H, W) in [0, 1] → logits (B, K).
        n_examples: first N test images.
        dataset: "cifar10", "cifar100", "svhn" or "digits".
        threat_model: "L2" or "Linf".
        to_disk: write the result to `model_info/<dataset>/<threat_model>/<model_name>.json`, RobustBench's keys.
        model_name: needed with `to_disk`.
        data_dir: where the data set is looked for first; ignored if there is no such folder.
        device: where; None: where the model's parameters are.
        batch_size: images per call.
        eps: budget on [0, 1] pixels; None: RobustBench's 0.5 (L2) or 8/255 (Linf).

    Raises:
        UsageError: unknown data set or threat model, or `to_disk` without a name.
    """
    if threat_model not in _THREATS:
        raise UsageError(f"benchmark: expected threat_model L2 or Linf, got {threat_model!r}. Choose one of them.")
    if to_disk and not model_name:
        raise UsageError("benchmark: expected model_name with to_disk=True, got none. Name the model.")
    norm, default = _THREATS[threat_model]
    budget = default if eps is None else float(eps)
    folder = Path(data_dir) if data_dir is not None and Path(data_dir).is_dir() else None
    loaded = datasets.load(dataset, data_dir=folder, limit=n_examples, need_train=False)
    table = evaluate(
        model,
        data=(torch.tensor(loaded.test.images), torch.tensor(loaded.test.labels)),
        evaluations=["accuracy", f"autoattack_{norm}"],
        eps=budget,
        device=device,
        batch_size=batch_size,
    )
    clean = float(table["clean_correct"].mean())
    robust = float(table[f"autoattack_{norm}_{budget:g}_robust"].mean())
    if to_disk:
        from bench.reports.exports.model_info import write_model_info

        write_model_info(Path("model_info"), loaded.name, threat_model, str(model_name), clean, robust, budget)
    return clean, robust


@dataclass(frozen=True)
class Results:
    """A result folder as tables.

    Attributes:
        leaderboard: one row per defense, the columns of leaderboard.csv.
        examples: one row per defense, seed and image, the columns of examples.parquet.
        logs: one row per defense, seed and epoch of training.
        plan: the last command's plan: suite, data, environment, evaluations, rows.
    """

    leaderboard: pd.DataFrame
    examples: pd.DataFrame
    logs: pd.DataFrame
    plan: PlanRecord


def load_results(out: str | Path) -> Results:
    """Load a finished or half-finished result folder, straight from its store.

    Args:
        out: the result folder.

    Returns:
        Its board, per-example table, training logs and last plan.

    Raises:
        MachineError: there is no store in that folder.
    """
    from bench.reports.board.build import build
    from bench.reports.exports.leaderboard import leaderboard_frame

    with Store.open(Path(out)) as store:
        board = build(store)
    logs = [
        {"defense": defense, "seed": seed, **{k: v for k, v in record.items() if k != "terms"}, **record["terms"]}
        for (defense, seed), records in board.logs.items()
        for record in records
    ]
    return Results(leaderboard_frame(board), board.examples, pd.DataFrame(logs), board.plan)


def load_model(
    name: str, *, dataset: str | None = None, seed: int = 0, out: str | Path = "results/digits"
) -> nn.Module:
    """Return a trained model of a result folder, in eval mode, on the CPU, bit-equal to the one that was saved.

    Args:
        name: the defense spec, as on the board, e.g. "lcnn" or "lcnn:lambda_beta=0.01".
        dataset: checked against the folder's data set, if given.
        seed: the training seed.
        out: the result folder.

    Raises:
        UsageError: no such row, or it is not trained yet, or the data set is another.
        IntegrityError: the weights are not the ones that were stored.
    """
    from bench.store.weights import load_weights, weights_path

    with Store.open(Path(out)) as store:
        plan = store.latest_plan()
        spec = parse_defense_spec(name)
        rows = [r for r in plan.rows if r.defense == str(spec) and r.seed == seed]
        record = store.cell(rows[0].train_cell) if rows else None
    if dataset is not None and dataset not in (plan.data.name, plan.suite.dataset):
        raise UsageError(f"load_model: expected data set {plan.data.name}, got {dataset!r}. Check out=.")
    if record is None or record.status != "done":
        there = sorted({r.label for r in plan.rows})
        raise UsageError(f"load_model: expected a trained row, got {spec} seed {seed}. Planned: {', '.join(there)}.")
    row = rows[0]
    entry = registry.defenses.get(spec.name)
    with torch.random.fork_rng(devices=[]):  # the factory draws weights which are replaced; the caller's draws stay
        model = entry.function(len(plan.data.classes), plan.data.shape, row.backbone, **row.hyperparameters)
    sha = record.info["weights"]
    return load_weights(model, weights_path(Path(out), sha), sha)


__all__ = ["Recipe", "Results", "benchmark", "evaluate", "load_model", "load_results"]
