"""Whether a row of an earlier command may stand on the last command's board, and if not, why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from bench.core.handed_over import PROVENANCE
from bench.store.plan_record import EvaluationRecord, PlanRecord, RunRecord, Settings
from bench.store.records import CellRecord
from bench.store.spec_difference import differences, listing

_FORCED: Final = ("epochs", "precision")  # what a command sets for every defense, whatever its own recipe says
_SETTINGS: Final = ("evaluation", "version", "split", "seed", "sample", "n")


def is_trained(run: RunRecord) -> bool:
    """Tell whether a run was trained by the suite's recipe; a model that was handed over was not."""
    return run.provenance != PROVENANCE


def plan_difference(board: PlanRecord, earlier: PlanRecord) -> str:
    """Return why no row of an earlier plan is comparable, "" if they may be: suite, test images and threat.

    Args:
        board: the last command's plan.
        earlier: the other plan.
    """
    mine, theirs = board.data, earlier.data
    if board.suite.name != earlier.suite.name:
        return f"it is of suite {earlier.suite.name}"
    if (mine.name, mine.shape, mine.classes) != (theirs.name, theirs.shape, theirs.classes):
        return f"it is on data {theirs.name}, not {mine.name}"
    if mine.test.fingerprint != theirs.test.fingerprint:
        return f"it is on {_other(theirs.test.n, mine.test.n)} test images"
    if board.suite.threat != earlier.suite.threat:
        return f"its suite ranks by {earlier.suite.threat or 'nothing'}, not by {board.suite.threat or 'nothing'}"
    return ""


def training_difference(board: PlanRecord, earlier: PlanRecord) -> str:
    """Return what the trained rows of two plans were not trained alike in, "" if nothing.

    Args:
        board: the newest plan of the board that has trained rows.
        earlier: the other plan.
    """
    mine, theirs = board.data.train, earlier.data.train
    if mine.fingerprint != theirs.fingerprint or board.suite.holdout != earlier.suite.holdout:
        return f"it was trained on {_other(theirs.n, mine.n)} images"
    for name, theirs_is, mine_is in _settings(_recipe(earlier), _recipe(board)):
        return f"it was trained with {name} {theirs_is}, not {mine_is}"
    if board.suite.backbone != earlier.suite.backbone:
        return f"its suite's backbone is {earlier.suite.backbone}, not {board.suite.backbone}"
    return ""


def _other(theirs: int, mine: int) -> str:
    return f"{theirs:,}, not {mine:,}," if theirs != mine else f"{theirs:,} other"


def _recipe(plan: PlanRecord) -> Settings:
    """Return the recipe that a plan's trainings share, what the command line sets in it included."""
    return plan.suite.recipe | {name: plan.overrides[name] for name in _FORCED if name in plan.overrides}


def _settings(theirs: Mapping[str, object], mine: Mapping[str, object]) -> Iterator[tuple[str, object, object]]:
    """Yield name, their value and ours of each setting that differs."""
    for path, a, b in differences(theirs, mine):
        yield path[-1], "absent" if a is None else a, "absent" if b is None else b


def evaluation_difference(key: str, mine: EvaluationRecord, theirs: EvaluationRecord) -> str:
    """Return what an evaluation of two plans differs in, "" if nothing that can move a number.

    Args:
        key: of the evaluation, the same in both plans.
        mine: as the board has it.
        theirs: as the earlier plan has it.
    """
    for name in _SETTINGS:
        if (a := getattr(theirs, name)) != (b := getattr(mine, name)):
            return f"its {key} has {'images' if name == 'n' else name} {a}, not {b}"
    for name, a, b in _settings(theirs.arguments, mine.arguments):
        return f"its {key} has {name} {a}, not {b}"
    return ""


def defense_difference(mine: RunRecord, theirs: RunRecord) -> str:
    """Return why another seed of a defense is no seed of the same row, "" if it is one.

    Args:
        mine: a run of the row that is on the board.
        theirs: another seed of the same defense spec.
    """
    for name in ("base", "version", "backbone"):
        if (a := getattr(theirs, name)) != (b := getattr(mine, name)):
            return f"its {name} is {a}, that of the row's other seeds {b}"
    for part in ("hyperparameters", "recipe"):
        for name, a, b in _settings(getattr(theirs, part), getattr(mine, part)):
            return f"its {name} is {a}, that of the row's other seeds {b}"
    return ""


def measured_on(cell: CellRecord) -> object:
    """Return the SHA-256 of the weights that an evaluation was computed on, None where its record names none."""
    return _mapping(cell.spec.get("model")).get("weights")


def changed_sources(mine: CellRecord, theirs: CellRecord) -> tuple[set[str], set[str]]:
    """Return the names of the source files that two cells have in common with other content: ours, third parties'.

    Args:
        mine: a cell.
        theirs: another one of the same kind.
    """
    a, b = (_mapping(record.spec.get("sources")) for record in (mine, theirs))
    changed = {name for name in a.keys() & b.keys() if a[name] != b[name]}
    ours = {name for name in changed if name.partition(".")[0] == "bench"}
    return ours, changed - ours


def changed_runtime(mine: CellRecord, theirs: CellRecord) -> list[str]:
    """Return in words what two cells were computed on or with that differs: "torch 2.14, not 2.15".

    Args:
        mine: a cell.
        theirs: another one of the same kind.
    """
    a, b = (_mapping(record.spec.get("runtime")) for record in (theirs, mine))
    return [f"{name} {old}, not {new}" for name, old, new in _settings(a, b)]


def other_code(key: str, theirs: set[str]) -> str:
    """Return why numbers of third parties' code that was edited do not stand beside those of the new code.

    Args:
        key: of the evaluation, or "training".
        theirs: names of the files.
    """
    return f"its {key} was computed by other code, {listing(theirs)} having changed" if theirs else ""


def _mapping(value: object) -> Mapping[str, object]:
    """Return a part of a stored spec that should be an object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}
