"""Trained models and test images of a result folder, rebuilt from what its store says of them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from bench.core import registry
from bench.core.errors import IntegrityError, MachineError, UsageError
from bench.core.records import Column, Defense, ThreatModel, expand_columns
from bench.core.seeding import preserved_generators
from bench.core.user_code import LoadedCode
from bench.data import catalog
from bench.data.own import OwnData, locate
from bench.data.split import Split
from bench.running import sources
from bench.running.cells import plain
from bench.running.probe import check_probe
from bench.running.untrained import recorded_factory
from bench.store.plan_record import EvaluationRecord, PlanRecord, RunRecord, Settings
from bench.store.records import CellRecord
from bench.store.weights import load_weights, weights_path
from bench.training.build import build_network


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
    found = [] if plan.suite.threat is None else robust_columns(plan, plan.suite.threat)
    if not found:
        raise UsageError(
            f"suite {plan.suite.name}: expected an attack at the suite's threat, got none. Add one and run again."
        )
    return found[0]


def robust_columns(plan: PlanRecord, threat: ThreatModel | None = None) -> list[RankingColumn]:
    """Return the columns of robust flags on test images that may rank, those of the highest-ranked attack first.

    Args:
        plan: a stored plan.
        threat: at exactly this threat; None: at any.
    """
    found: list[RankingColumn] = []
    for key, evaluation in plan.evaluations.items():
        columns = expand_columns(evaluation.columns, evaluation.arguments)
        if evaluation.split == "test":
            found += [
                RankingColumn(key, evaluation, name, column)
                for name, column in columns.items()
                if column.role == "robust" and column.ranks and (threat is None or threat.matches(column))
            ]
    return sorted(found, key=lambda c: -c.column.ranks)


def load_measured(plan: PlanRecord, run: RunRecord, trained: CellRecord, out: Path) -> tuple[nn.Module, str]:
    """Return the trained model of a run and what a reader must know of it, "" if nothing.

    The code may have changed since: what was measured are weights and a network that gives the stored logits, and
    both are compared. Without stored logits the code must be the same.

    Args:
        plan: the plan that the run belongs to.
        run: the run.
        trained: what the store knows of its training.
        out: the result folder.

    Raises:
        IntegrityError: it is not the network that was measured.
    """
    try:
        return load_run(plan, run, trained, out), ""
    except IntegrityError as error:
        if not trained.info.get("probe"):
            raise
        model = load_run(plan, run, trained, out, allow_changed_sources=True)
        return model, f"{str(error).partition('. ')[0]}; the network still gives the logits that were stored"


def load_run(
    plan: PlanRecord, run: RunRecord, trained: CellRecord, out: Path, *, allow_changed_sources: bool = False
) -> nn.Module:
    """Return the trained model of a run, in eval mode on the CPU: the function that was trained.

    It is built from the seed of its training, its weights are those that were saved, and its logits on the probe's
    images those that were stored. The caller's generators stay as they are.

    Args:
        plan: the plan that the run belongs to.
        run: the run.
        trained: what the store knows of its training.
        out: the result folder.
        allow_changed_sources: load it although the code of its defense has changed; the probe must still agree.

    Raises:
        IntegrityError: the defense's code has changed; the weights are missing, or not the ones that were stored; the
            logits differ from those that were stored.
    """
    defense = registry.defenses.get(run.base)
    if not allow_changed_sources:
        _check_sources(run, defense, trained, None)
    weights = str(trained.info["weights"])
    path = weights_path(out, weights)
    if trained.left_out and not path.is_file():
        raise IntegrityError(
            f"{path}: expected the weights of {run.label}, got no file: they were left out when the results were "
            "packed. Unpack a pack made with --weights."
        )
    _check_room(plan, run, defense, path)
    with preserved_generators(), recorded_factory(defense) as built:
        try:
            model = build_network(
                defense,
                _live(defense, run.hyperparameters),
                num_classes=len(plan.data.classes),
                shape=plan.data.shape,
                backbone=run.backbone,
                seed=run.seed,
            )
        except Exception as error:
            raise IntegrityError(
                f"{run.label}: expected a factory that builds the network as when it was trained, got "
                f"{type(error).__name__}: {error}. Restore its code and the libraries that it uses."
            ) from error
    if not allow_changed_sources:
        _check_sources(run, defense, trained, built)
    model = load_weights(model, path, weights)
    check_probe(model, plan.data.shape, torch.device("cpu"), trained.info.get("probe"), run.label)
    return model


def _check_room(plan: PlanRecord, run: RunRecord, defense: Defense, path: Path) -> None:
    """Refuse a network of ours that has more numbers than its weights' file has bytes, before it takes memory.

    A plan that came from elsewhere may name any width. The network is built without storage to be counted.

    Raises:
        IntegrityError: it has more.
    """
    if not path.is_file() or not defense.function.__module__.startswith("bench."):
        return
    count, size = 0, path.stat().st_size
    with preserved_generators(), contextlib.suppress(Exception), torch.device("meta"):  # the real build reports it
        skeleton = build_network(
            defense,
            _live(defense, run.hyperparameters),
            num_classes=len(plan.data.classes),
            shape=plan.data.shape,
            backbone=run.backbone,
            seed=run.seed,
        )
        count = sum(value.numel() for value in skeleton.state_dict().values() if isinstance(value, torch.Tensor))
    if count > size:
        raise IntegrityError(
            f"{run.label}: expected a network whose weights fit into {size:,} bytes, got one of {count:,} numbers. "
            "The plan names another network than was trained: restore the store."
        )


def _check_sources(run: RunRecord, defense: Defense, trained: CellRecord, built: LoadedCode | None) -> None:
    """Refuse a defense whose code is not the one that was trained.

    Raises:
        IntegrityError: it is not; the changed files are named.
    """
    stored: dict[str, str] = trained.spec["sources"]
    now = sources.sources([defense.function], defense.depends_on, built)
    if changed := [name for name, digests in now.items() if not _holds(stored.get(name, ""), digests)]:
        raise IntegrityError(
            f"{run.label}: expected the code that it was trained with, got changes in {', '.join(changed[:5])}. "
            "Restore the code, or run again to train anew; bench.load_model(…, allow_changed_sources=True) loads it."
        )


def _holds(stored: str, digests: str) -> bool:
    """Tell whether the stored hashes of the files of one name are these, or these and others of a file of the loss."""
    before, now = stored.split(), digests.split()
    return before == now or (len(now) < len(before) and set(now) <= set(before))


def _live(defense: Defense, recorded: Settings) -> dict[str, object]:
    """Return recorded hyper-parameters as the factory was given them: a default itself, not its form in JSON."""
    defaults = defense.hyperparameters
    return {k: defaults[k] if k in defaults and plain(defaults[k]) == v else v for k, v in recorded.items()}


def load_test_images(plan: PlanRecord, data_dir: Path | None, *, download: bool = True) -> Split:
    """Return the test images that a plan was measured on.

    Args:
        plan: a stored plan.
        data_dir: where the data set is looked for first.
        download: whether a missing original may be fetched.

    Raises:
        IntegrityError: other images are found under its name.
        MachineError: they are not here.
    """
    data, name = plan.data, plan.suite.dataset
    own = _own_data(plan, data_dir)
    test = catalog.load(name, data_dir=data_dir, limit=data.test.n, download=download, need_train=False, own=own).test
    if test.fingerprint != data.test.fingerprint:
        raise IntegrityError(
            f"data set {data.name}: expected test images with SHA-256 {data.test.fingerprint[:12]}, got "
            f"{test.fingerprint[:12]}. Name the folder of the original run with --data."
        )
    return test


def _own_data(plan: PlanRecord, data_dir: Path | None) -> OwnData | None:
    """Return the folder of one's own that a plan was measured on; None for a named data set.

    Raises:
        MachineError: it is not here.
    """
    read = plan.suite.own_data
    if read is None:
        return None
    places = (*((data_dir,) if data_dir else ()), Path())
    folder = locate(plan.suite.dataset, places)
    if folder is None:
        raise MachineError(
            f"data set {plan.data.name}: expected its folder, {plan.suite.dataset}, got none. Name it, or the folder "
            "that it lies in, with --data."
        )
    return OwnData(folder, read.test, read.size, read.channels)
