"""The plan as the record that the store keeps and the reports read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

from bench.config.evaluation_config import EvaluationConfig
from bench.config.suite import Suite
from bench.core.handed_over import PROVENANCE
from bench.core.records import Column
from bench.data.split import Dataset
from bench.running.cells import plain
from bench.running.environment import environment
from bench.running.plan import Plan
from bench.running.planned import PlannedEvaluation, Run
from bench.store.plan_record import (
    DataRecord,
    EvaluationConfigRecord,
    EvaluationRecord,
    OwnDataRecord,
    PlanRecord,
    RunRecord,
    Settings,
    SplitRecord,
    SuiteRecord,
)


def plan_record(plan: Plan) -> PlanRecord:
    """Return the record of a plan, made now."""
    return PlanRecord(
        command=plan.command,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        suite=suite_record(plan.suite),
        overrides=_settings(plan.overrides),
        data=data_record(plan.dataset),
        environment=environment(plan.device, plan.included, plan.execution),
        evaluations={p.entry.key: _evaluation_record(p) for p in plan.evaluations},
        rows=tuple(_run_record(plan, run) for run in plan.runs),
        only=plan.only,
    )


def suite_record(suite: Suite) -> SuiteRecord:
    """Return the record of a suite."""
    own = suite.own
    return SuiteRecord(
        name=suite.name,
        description=suite.description,
        source=suite.source,
        dataset=suite.dataset,
        backbone=suite.backbone,
        seeds=suite.seeds,
        threat=suite.threat,
        audit=suite.audit,
        holdout=suite.holdout,
        store_adversarial=suite.store_adversarial,
        defenses=tuple(map(str, suite.defenses)),
        recipe=_settings(suite.recipe.settings()),
        evaluations={entry.key: _config_record(entry) for entry in suite.evaluations},
        own_data=None if own is None else OwnDataRecord(test=float(own.test), size=own.size, channels=own.channels),
    )


def data_record(dataset: Dataset) -> DataRecord:
    """Return the record of a data set."""
    train, test = dataset.train, dataset.test
    return DataRecord(
        name=dataset.name,
        original=dataset.original,
        layout=dataset.layout,
        classes=dataset.classes,
        shape=dataset.shape,
        train=SplitRecord(n=len(train), total=dataset.train_total, fingerprint=train.fingerprint),
        test=SplitRecord(n=len(test), total=dataset.test_total, fingerprint=test.fingerprint),
        note=dataset.note,
    )


def _config_record(entry: EvaluationConfig) -> EvaluationConfigRecord:
    return EvaluationConfigRecord(
        evaluation=entry.evaluation,
        arguments=_settings(entry.arguments),
        limit=entry.limit,
        split=entry.split,
        seed=entry.seed,
        sample=entry.sample,
    )


def _evaluation_record(planned: PlannedEvaluation) -> EvaluationRecord:
    evaluation = planned.evaluation
    return EvaluationRecord(
        evaluation=evaluation.name,
        arguments=planned.spec["arguments"],
        limit=planned.entry.limit,
        split=planned.entry.split,
        seed=planned.entry.seed,
        sample=planned.entry.sample,
        n=len(planned.split),
        source=evaluation.source,
        version=evaluation.version,
        description=evaluation.description,
        columns={pattern: _plain_params(column) for pattern, column in evaluation.columns.items()},
        needs=evaluation.needs,
    )


def _plain_params(column: Column) -> Column:
    """Return a column whose `params` is a dict: what a mapping proxy would not serialise to."""
    return replace(column, params=dict(column.params))


def _run_record(plan: Plan, run: Run) -> RunRecord:
    defense = run.job.defense
    own = not run.handed_over  # a model that was handed over has no recipe and no backbone of ours
    return RunRecord(
        defense=run.defense,
        base=defense.name,
        seed=run.job.seed,
        provenance="trained here" if own else PROVENANCE,
        train_cell=run.cell.id,
        unsuited=tuple(p.entry.key for p in plan.evaluations if not p.suits(run)),
        description=defense.description,
        source=defense.source,
        version=defense.version,
        bibtex=defense.bibtex,
        title=defense.title,
        link=defense.link,
        venue=defense.venue,
        year=defense.year,
        hyperparameters=_settings(run.job.hyperparameters),
        recipe=_settings(run.job.recipe.settings()) if own else {},
        backbone=run.job.backbone if own else "",
    )


def _settings(values: Mapping[str, object]) -> Settings:
    return {name: plain(value) for name, value in values.items()}
