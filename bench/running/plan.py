"""What a command is going to do: the suite, the data, one run per defense and seed, and its evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from bench.config.defense_spec import DefenseSpec
from bench.config.evaluation_config import EvaluationConfig
from bench.config.recipe_table import recipe_from
from bench.config.setting import settable
from bench.config.suite import Suite
from bench.config.validation import check_defaults
from bench.core import registry
from bench.core.errors import UsageError
from bench.core.processes import TRIAL_SECONDS
from bench.core.records import expand_columns
from bench.data import split
from bench.data.split import Dataset, Split
from bench.running import cells, needs
from bench.running.cells import Hashed
from bench.running.handed_over import take_over_spec
from bench.running.planned import Companion, PlannedEvaluation, Run
from bench.running.sources import RememberedSources
from bench.running.untrained import Builds
from bench.training.execution import ExecutionConfig
from bench.training.loop import TrainJob
from bench.training.precision import resolve_precision


@dataclass(frozen=True)
class Plan:
    """All of a command's work, before any of it is done.

    Attributes:
        suite: what is trained and measured, as the command line changed it.
        dataset: the data that were found.
        device: where models are trained and evaluated.
        runs: one per defense and seed.
        evaluations: of each of them.
        out: the result folder.
        command: as typed.
        overrides: what the command line changed in the suite.
        included: paths of third-party files that were imported.
        execution: how a training step is carried out.
        only: whether the board shows this command's rows alone.
        companions: rows of earlier commands that stand on the board: evaluations may read their results.
    """

    suite: Suite
    dataset: Dataset
    device: torch.device
    runs: tuple[Run, ...]
    evaluations: tuple[PlannedEvaluation, ...]
    out: Path
    command: str = ""
    overrides: Mapping[str, object] = field(default_factory=dict)
    included: tuple[str, ...] = ()
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    only: bool = False
    companions: tuple[Companion, ...] = ()

    def beside(self, companions: Sequence[Companion]) -> Plan:
        """Return the plan with rows of earlier commands beside its own.

        A row that is alone in its command reads of others as well where there are others on the board.

        Args:
            companions: the runs of those rows.
        """
        others = {run.defense for run in companions} | {str(spec) for spec in self.suite.defenses}
        evaluations = _evaluations(self.suite, self.dataset, self.device, alone=len(others) < 2)
        return replace(self, evaluations=evaluations, companions=tuple(companions))


def make_plan(
    suite: Suite,
    dataset: Dataset,
    device: torch.device,
    out: Path,
    *,
    command: str = "",
    overrides: Mapping[str, object] | None = None,
    included: Sequence[str] = (),
    execution: ExecutionConfig | None = None,
    hang_limit: float = TRIAL_SECONDS,
    only: bool = False,
) -> Plan:
    """Plan a suite: seeds outermost, so that a run that is stopped early has every defense once.

    Args:
        suite: what is trained and measured.
        dataset: the data that were found.
        device: where models are trained and evaluated.
        out: the result folder.
        command: the command as typed.
        overrides: what the command line changed in the suite.
        included: paths of third-party files that were imported.
        execution: how a training step is carried out; None: the default.
        hang_limit: seconds within which a third party's factory must have built its network.
        only: whether the board shows this command's rows alone.

    Returns:
        The plan; nothing of it is stored yet.

    Raises:
        UsageError: an unknown defense, evaluation, hyper-parameter or backbone; a network that cannot be stored.
    """
    splits: tuple[Split, Split | None] = (dataset.train, None)
    if suite.holdout:
        splits = split.hold_out(dataset.train, suite.holdout, seed=0)
        dataset = replace(dataset, train=splits[0])  # an evaluation on training images sees those that are trained on
    execution = execution or ExecutionConfig()
    builds = Builds(hang_limit)
    jobs = [_job(suite, dataset, splits, spec, seed) for seed in suite.seeds for spec in suite.defenses]
    # Before the GPU is asked anything: a process that uses one cannot try a third party's factory in a copy of itself.
    for job in jobs:
        builds.of(job)
    specs = [spec for _ in suite.seeds for spec in suite.defenses]
    hashed = RememberedSources()
    runs = tuple(
        _run(suite, spec, job, device, execution=execution, builds=builds, hashed=hashed)
        for spec, job in zip(specs, jobs, strict=True)
    )
    if not runs:
        raise UsageError(f"suite {suite.name}: expected at least one defense and one seed, got none. Add one.")
    evaluations = _evaluations(suite, dataset, device, alone=len(suite.defenses) < 2)
    return Plan(
        suite=suite,
        dataset=dataset,
        device=device,
        runs=runs,
        evaluations=evaluations,
        out=out,
        command=command,
        overrides=overrides or {},
        included=tuple(included),
        execution=execution,
        only=only,
    )


def _evaluations(suite: Suite, dataset: Dataset, device: torch.device, alone: bool) -> tuple[PlannedEvaluation, ...]:
    """Return the evaluations that the suite names, then those that it gets without naming them."""
    named = [_planned(suite, dataset, device, entry) for entry in suite.evaluations]
    added = [_planned(suite, dataset, device, entry) for entry in needs.automatic_evaluations(suite, named, alone)]
    planned = [p for p in (*named, *added) if not p.evaluation.needs]
    for evaluation in (*named, *added):
        if evaluation.evaluation.needs:
            planned.append(needs.with_inputs(evaluation, planned, suite.threat))
    order = {p.entry.key: place for place, p in enumerate((*named, *added))}
    return tuple(sorted(planned, key=lambda p: order[p.entry.key]))


def _job(suite: Suite, dataset: Dataset, splits: tuple[Split, Split | None], spec: DefenseSpec, seed: int) -> TrainJob:
    """Return the training of a defense and a seed, in full precision."""
    entry = registry.defenses.get(spec.name)
    hyperparameters = {**entry.hyperparameters, **spec.hyperparameters}
    if missing := [k for k, v in hyperparameters.items() if v is ...]:
        raise UsageError(
            f"defense {entry.name}: expected a value for {', '.join(missing)}, got none. "
            f"Write {entry.name}:{missing[0]}=VALUE, or give it a default."
        )
    check_defaults(f"defense {entry.name}", entry.hyperparameters, settable(entry))
    recipe_from(f"defense {entry.name}: recipe: ", entry.recipe.settings())
    recipe = replace(suite.recipe_of(spec), precision="fp32")
    train, holdout = splits
    backbone = suite.backbone_of(spec)
    return TrainJob(entry, hyperparameters, recipe, backbone, len(dataset.classes), dataset.shape, seed, train, holdout)


def _run(
    suite: Suite,
    spec: DefenseSpec,
    job: TrainJob,
    device: torch.device,
    *,
    execution: ExecutionConfig,
    builds: Builds,
    hashed: Hashed,
) -> Run:
    """Return the run of a training in the precision that the device has."""
    wanted = suite.recipe_of(spec).precision
    precision = resolve_precision(wanted, device)
    job = replace(job, recipe=replace(job.recipe, precision=precision))
    handed_over, built = job.defense.handed_over is not None, builds.of(job)
    key = (
        take_over_spec(job, device, built, hashed)
        if handed_over
        else cells.train_spec(job, device, execution, built, hashed)
    )
    gated = wanted == "auto" and precision != "fp32" and not handed_over
    return Run(str(spec), job, cells.Cell("train", key), builds.defect_of(job), built, gated)


def _planned(suite: Suite, dataset: Dataset, device: torch.device, entry: EvaluationConfig) -> PlannedEvaluation:
    """Return one evaluation on its images; its needs are not looked for yet."""
    evaluation = registry.evaluations.get(entry.evaluation)
    arguments = {k: v for k, v in evaluation.hyperparameters.items() if v is not ...} | dict(entry.arguments)
    if missing := [k for k, v in evaluation.hyperparameters.items() if v is ... and k not in arguments]:
        raise UsageError(
            f"evaluation {entry.key}: expected a value for {', '.join(missing)}, got none. Set it in the suite."
        )
    split, index = _images(dataset.train if entry.split == "train" else dataset.test, entry)
    kept = needs.kept_images(expand_columns(evaluation.columns, arguments), suite, entry.split)
    spec = cells.evaluation_spec(evaluation, arguments, split, device, seed=entry.seed, keep_images=kept)
    if index is not None:
        spec["index"] = index.tolist()
    return PlannedEvaluation(replace(entry, arguments=arguments), evaluation, split, spec, kept, index)


def _images(whole: Split, entry: EvaluationConfig) -> tuple[Split, np.ndarray | None]:
    """Return the images of an evaluation, and their places in the data set where these are not the first ones."""
    split = whole if entry.limit is None else whole.first(entry.limit)
    if entry.sample is None:
        return split, None
    index = np.sort(np.random.RandomState(0).permutation(len(split))[: entry.sample])
    return Split.of(split.images[index], split.labels[index]), index
