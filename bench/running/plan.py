"""What a command is going to do: the suite, the data, one row per defense and seed, one entry per evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.config.defense_spec import DefenseSpec
from bench.config.evaluation_config import EvaluationConfig
from bench.config.suite import Suite
from bench.core import registry
from bench.core.errors import UsageError
from bench.core.records import Evaluation
from bench.data import split
from bench.data.split import Dataset, Split
from bench.running import cells
from bench.training.execution import ExecutionConfig
from bench.training.loop import TrainJob
from bench.training.precision import resolve_precision


@dataclass(frozen=True)
class Run:
    """One model of the board: a defense with its overrides, and a seed.

    Attributes:
        defense: canonical defense spec, e.g. "lcnn:lambda_beta=0.01".
        job: all that its training needs.
        cell: the training's cell.
    """

    defense: str
    job: TrainJob
    cell: cells.TrainCell

    @property
    def label(self) -> str:
        """How the row is called on the terminal."""
        return f"{self.defense} seed {self.job.seed}"


@dataclass(frozen=True)
class PlannedEvaluation:
    """One evaluation of the suite, on its own subset.

    Attributes:
        entry: the suite's entry (key, arguments, limit, split, seed).
        evaluation: the registered evaluation.
        split: exactly the images it is computed on.
        index: their places in the data set; None: the first ones.
        keep_images: names of the image columns that are stored.
    """

    entry: EvaluationConfig
    evaluation: Evaluation
    split: Split
    spec: dict[str, Any]
    keep_images: frozenset[str] | None
    index: np.ndarray | None = None

    def cell(self, weights: str, row: Run) -> cells.EvaluationCell:
        """Return the cell of this evaluation for a row's weights, named by their SHA-256."""
        return cells.evaluation_cell(row.cell.spec, weights, self.spec, row.job.defense.adaptive)

    def keeps(self, column: str) -> bool:
        """Tell whether an image column is to be stored (None: all are)."""
        return self.keep_images is None or column in self.keep_images


@dataclass(frozen=True)
class Plan:
    """All of a command's work, before any of it is done."""

    suite: Suite
    dataset: Dataset
    device: torch.device
    rows: tuple[Run, ...]
    measurements: tuple[PlannedEvaluation, ...]
    out: Path
    command: str = ""
    overrides: dict[str, Any] = field(default_factory=dict)
    included: tuple[str, ...] = ()
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)


def make_plan(
    suite: Suite,
    dataset: Dataset,
    device: torch.device,
    out: Path,
    *,
    command: str = "",
    overrides: dict[str, Any] | None = None,
    included: Sequence[str] = (),
    execution: ExecutionConfig | None = None,
) -> Plan:
    """Plan a suite: seeds outermost, so that a run that is stopped early has every defense once.

    Raises:
        UsageError: an unknown defense, evaluation, hyper-parameter or backbone.
    """
    splits: tuple[Split, Split | None] = (dataset.train, None)
    if suite.holdout:
        splits = split.hold_out(dataset.train, suite.holdout, seed=0)
    execution = execution or ExecutionConfig()
    rows = tuple(
        _row(suite, dataset, splits, device, spec, seed, execution) for seed in suite.seeds for spec in suite.defenses
    )
    if not rows:
        raise UsageError(f"suite {suite.name}: expected at least one defense and one seed, got none. Add one.")
    measurements = tuple(_measurement(suite, dataset, device, entry) for entry in suite.evaluations)
    if suite.audit and (attacked := [m for m in measurements if m.evaluation.name == "autoattack_l2"]):
        measurements += (_audit(suite, dataset, device, attacked[0]),)
    return Plan(suite, dataset, device, rows, measurements, out, command, overrides or {}, tuple(included), execution)


def _row(
    suite: Suite,
    dataset: Dataset,
    splits: tuple[Split, Split | None],
    device: torch.device,
    spec: DefenseSpec,
    seed: int,
    execution: ExecutionConfig,
) -> Run:
    entry = registry.defenses.get(spec.name)
    hyperparameters = {**entry.hyperparameters, **spec.hyperparameters}
    if missing := [k for k, v in hyperparameters.items() if v is ...]:
        raise UsageError(
            f"defense {entry.name}: expected a value for {', '.join(missing)}, got none. "
            f"Write {entry.name}:{missing[0]}=VALUE, or give it a default."
        )
    recipe = suite.recipe_of(spec)
    recipe = replace(recipe, precision=resolve_precision(recipe.precision, device))
    train, holdout = splits
    backbone = suite.backbone_of(spec)
    job = TrainJob(entry, hyperparameters, recipe, backbone, len(dataset.classes), dataset.shape, seed, train, holdout)
    return Run(str(spec), job, cells.TrainCell(cells.train_spec(job, device, execution)))


def _measurement(suite: Suite, dataset: Dataset, device: torch.device, entry: EvaluationConfig) -> PlannedEvaluation:
    evaluation = registry.evaluations.get(entry.evaluation)
    whole = dataset.train if entry.split == "train" else dataset.test
    split = whole if entry.limit is None else whole.first(entry.limit)
    arguments = {k: v for k, v in evaluation.hyperparameters.items() if v is not ...} | dict(entry.arguments)
    if missing := [k for k, v in evaluation.hyperparameters.items() if v is ... and k not in arguments]:
        raise UsageError(
            f"evaluation {entry.key}: expected a value for {', '.join(missing)}, got none. Set it in the suite."
        )
    kept = _kept(suite, entry.evaluation)
    spec = cells.evaluation_spec(evaluation, arguments, split, device, seed=entry.seed, keep_images=kept)
    return PlannedEvaluation(entry, evaluation, split, spec, kept)


def _audit(suite: Suite, dataset: Dataset, device: torch.device, attacked: PlannedEvaluation) -> PlannedEvaluation:
    """Return the audit: the official AutoAttack on a random subset of the images that ours attacks."""
    entry = EvaluationConfig("audit_l2", "audit_l2", {"eps": [suite.primary_eps]}, limit=attacked.entry.limit)
    whole = _measurement(suite, dataset, device, entry)
    index = np.sort(np.random.RandomState(0).permutation(len(whole.split))[: suite.audit])
    split = Split.of(whole.split.images[index], whole.split.labels[index])
    return replace(
        whole, split=split, spec={**whole.spec, "data": split.fingerprint, "index": index.tolist()}, index=index
    )


def _kept(suite: Suite, evaluation: str) -> frozenset[str] | None:
    """Return the image columns of an evaluation that the suite stores; None: all."""
    if suite.store_adversarial == "all":
        return None
    primary = suite.store_adversarial == "primary" and evaluation == "autoattack_l2"
    return frozenset({f"autoattack_l2_{suite.primary_eps:g}_adversarial"} if primary else ())
