"""Trained models and test images of a result folder, rebuilt from what its store says of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bench.core import registry
from bench.core.errors import IntegrityError, UsageError
from bench.core.records import Column, expand_columns
from bench.data import catalog
from bench.data.split import Split
from bench.store.plan_record import EvaluationRecord, PlanRecord, RunRecord
from bench.store.weights import load_weights, weights_path


@dataclass(frozen=True)
class RankingColumn:
    """The column of robust flags that ranks a board.

    Attributes:
        key: the evaluation's key in the plan.
        evaluation: the planned evaluation.
        name: name of the column in its tables.
        column: what it is.
    """

    key: str
    evaluation: EvaluationRecord
    name: str
    column: Column


def ranking_column(plan: PlanRecord) -> RankingColumn:
    """Return the column that ranks a plan: of the robust ones at its threat, that of the highest-ranked attack.

    Args:
        plan: a stored plan.

    Returns:
        The column and the evaluation that measures it.

    Raises:
        UsageError: no attack was run at the suite's threat on test images.
    """
    found: list[RankingColumn] = []
    for key, evaluation in plan.evaluations.items():
        columns = expand_columns(evaluation.columns, evaluation.arguments)
        if evaluation.split == "test" and plan.suite.threat is not None:
            found += [
                RankingColumn(key, evaluation, name, column)
                for name, column in columns.items()
                if column.role == "robust" and column.ranks and plan.suite.threat.matches(column)
            ]
    if not found:
        raise UsageError(
            f"suite {plan.suite.name}: expected an attack at the suite's threat, got none. Add one and run again."
        )
    return max(found, key=lambda c: c.column.ranks)


def load_run(plan: PlanRecord, run: RunRecord, weights: str, out: Path) -> nn.Module:
    """Return the trained model of a run, in eval mode on the CPU, bit-equal to the one that was saved.

    Args:
        plan: the plan that the run belongs to.
        run: the run.
        weights: SHA-256 of its weights.
        out: the result folder.

    Raises:
        IntegrityError: the weights are missing, or not the ones that were stored.
    """
    entry = registry.defenses.get(run.base)
    with torch.random.fork_rng(devices=[]):  # the factory draws weights which are replaced; the caller's draws stay
        model = entry.function(len(plan.data.classes), plan.data.shape, run.backbone, **run.hyperparameters)
    return load_weights(model, weights_path(out, weights), weights)


def load_test_images(plan: PlanRecord, data_dir: Path | None) -> Split:
    """Return the test images that a plan was measured on.

    Args:
        plan: a stored plan.
        data_dir: where the data set is looked for first.

    Raises:
        IntegrityError: other images are found under its name.
    """
    data = plan.data
    test = catalog.load(plan.suite.dataset, data_dir=data_dir, limit=data.test.n, need_train=False).test
    if test.fingerprint != data.test.fingerprint:
        raise IntegrityError(
            f"data set {data.name}: expected test images with SHA-256 {data.test.fingerprint[:12]}, got "
            f"{test.fingerprint[:12]}. Name the folder of the original run with --data."
        )
    return test
