"""`bench.evaluate`: the per-example table of a trained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from bench.config.evaluation_config import EvaluationConfig, default_evaluation
from bench.config.suite_file import load_suite
from bench.core import registry
from bench.core.errors import UsageError
from bench.data import catalog
from bench.data.pixels import to_unit
from bench.data.split import Split
from bench.measuring.model_contract import check_model
from bench.measuring.runner import evaluate_chunks

_EVALUATIONS_OF_TENSORS = ("accuracy", "pgd_l2", "autoattack_l2", "stability", "curvature")


@dataclass(frozen=True, slots=True)
class _Subject:
    """What is evaluated on what.

    Attributes:
        split: images and labels.
        evaluations: all that the suite has, or the default ones.
        classes: number of logits, if known.
        from_suite: whether a name means the suite's own evaluation of that key.
    """

    split: Split
    evaluations: tuple[EvaluationConfig, ...]
    classes: int | None
    from_suite: bool


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
        model: float32 (B, C, H, W) in [0, 1] → logits (B, K), normalisation inside. Its device and modes are restored.
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
    subject = _suite_subject(suite, limit, data_dir) if suite else _tensor_subject(data, limit, seed)
    split = subject.split
    chosen = _with_budgets(_chosen(subject, evaluations, seed), eps)
    target = torch.device(device) if device is not None else _device_of(model)
    with _moved(model, target):
        x = to_unit(torch.tensor(split.images[:2])).to(target)
        k = check_model(model, x, subject.classes)
        if len(split) and int(split.labels.max()) >= k:
            raise UsageError(f"evaluate: expected labels below {k} (the logits' width), got {int(split.labels.max())}.")
        return _table(model, split, chosen, target, batch_size)


def _table(
    model: nn.Module, split: Split, entries: Sequence[EvaluationConfig], device: torch.device, batch_size: int | None
) -> pd.DataFrame:
    """Run the evaluations one after the other and join their columns by image."""
    table = pd.DataFrame({"index": np.arange(len(split)), "label": split.labels})
    cost: dict[str, dict[str, float]] = {}
    for entry in entries:
        evaluation = registry.evaluations.get(entry.evaluation)
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


def _suite_subject(name: str, limit: int | None, data_dir: str | Path | None) -> _Subject:
    suite = load_suite(name).with_overrides(limit=limit)
    dataset = catalog.load(suite.dataset, data_dir=data_dir, limit=limit, need_train=False)
    evaluations = tuple(e for e in suite.evaluations if e.split == "test")
    return _Subject(dataset.test, evaluations, len(dataset.classes), from_suite=True)


def _tensor_subject(data: tuple[Tensor, Tensor] | None, limit: int | None, seed: int) -> _Subject:
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
    evaluations = tuple(default_evaluation(name, seed) for name in _EVALUATIONS_OF_TENSORS)
    return _Subject(Split.of(images, labels.astype(np.int64)).first(limit), evaluations, None, from_suite=False)


def _chosen(subject: _Subject, names: Sequence[str] | None, seed: int) -> list[EvaluationConfig]:
    """Return the evaluations of these names; a name that the suite lacks is evaluated with its defaults."""
    if names is None:
        return [*subject.evaluations]
    own = {e.key: e for e in subject.evaluations} if subject.from_suite else {}
    return [own[name] if name in own else default_evaluation(name, seed) for name in names]


def _with_budgets(
    evaluations: Sequence[EvaluationConfig], eps: Sequence[float] | float | None
) -> list[EvaluationConfig]:
    """Return the evaluations at other budgets, where they have any; None changes nothing."""
    if eps is None:
        return [*evaluations]
    budgets = [float(eps)] if isinstance(eps, int | float) else [float(e) for e in eps]
    return [replace(e, arguments={**e.arguments, "eps": budgets}) if "eps" in e.arguments else e for e in evaluations]


def _device_of(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


@contextmanager
def _moved(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Have the model on a device inside the block, and on its own afterwards."""
    home = _device_of(model)
    model.to(device)
    try:
        yield
    finally:
        model.to(home)
