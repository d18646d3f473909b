"""What the evaluations of a plan read of each other, and which ones a suite gets without naming them.

This is the only place that decides both; it knows roles and ranks of columns, and no evaluation by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from bench.config.evaluation_config import EvaluationConfig
from bench.config.suite import Suite
from bench.core import registry
from bench.core.errors import UsageError
from bench.core.records import REFERENCE_RANK, Column, Evaluation, Need, ThreatModel, expand_columns
from bench.running.planned import Input, PlannedEvaluation


def kept_images(columns: Mapping[str, Column], suite: Suite, split: str = "test") -> frozenset[str] | None:
    """Return the names of the image columns of an evaluation that a suite stores; None: all.

    Args:
        columns: the evaluation's concrete columns.
        suite: its `store_adversarial` is "all", "none" or "primary": at the suite's threat those of a reference attack
            and, where it has none, those of the attack that ranks its board, so that every rank can be proved.
        split: of the images that the evaluation is computed on, "test" or "train"; only test images rank.
    """
    if suite.store_adversarial == "all":
        return None
    if suite.store_adversarial == "none":
        return frozenset()
    least = min(REFERENCE_RANK, _ranking(suite)) if split == "test" else REFERENCE_RANK
    return frozenset(
        name
        for name, column in columns.items()
        if column.role == "adversarial" and suite.threat.matches(column)
        if _rank(column, columns.values(), suite.threat) >= least
    )


def _ranking(suite: Suite) -> int:
    """Return the preference of the attack that ranks a suite's board; `REFERENCE_RANK` where none does."""
    found = [0]
    for entry in suite.evaluations:
        evaluation = registry.evaluations.get(entry.evaluation)
        columns = expand_columns(evaluation.columns, {**evaluation.hyperparameters, **entry.arguments})
        if entry.split == "test":
            found += [c.ranks for c in columns.values() if c.role == "robust" and suite.threat.matches(c)]
    return max(found) or REFERENCE_RANK


def automatic_evaluations(suite: Suite, planned: Sequence[PlannedEvaluation], alone: bool) -> list[EvaluationConfig]:
    """Return the evaluations that a suite gets without naming them, at its threat.

    They are computed on the images that the reference attack is run on, and on more where a key of the suite asks for
    more; without such an attack there are none.

    Args:
        suite: the suite.
        planned: the evaluations that it names.
        alone: whether there is no other defense on the board, so that nothing can be read of one.
    """
    attacked = next((p for p in planned if _is_reference_attack(p, suite.threat)), None)
    if attacked is None:
        return []
    named, found = {p.evaluation.name for p in planned}, []
    for evaluation in registry.evaluations:
        if evaluation.name in named or not _is_due(evaluation, suite, planned, alone):
            continue
        sample = suite.drawn.get(evaluation.automatic)
        limit = attacked.entry.limit and max(attacked.entry.limit, sample or 0)
        entry = EvaluationConfig(evaluation.name, evaluation.name, {"eps": [suite.threat.eps]}, limit)
        found.append(replace(entry, split=attacked.entry.split, sample=sample))
    return found


def _is_due(evaluation: Evaluation, suite: Suite, planned: Sequence[PlannedEvaluation], alone: bool) -> bool:
    norms = {column.params["norm"] for column in evaluation.columns.values() if "norm" in column.params}
    if evaluation.automatic == "never" or norms != {suite.threat.norm}:
        return False
    if evaluation.automatic in suite.drawn:
        return suite.drawn[evaluation.automatic] > 0
    return all(_find(n, planned, suite.threat) and not (alone and n.of == "others") for n in evaluation.needs)


def with_inputs(
    evaluation: PlannedEvaluation, planned: Sequence[PlannedEvaluation], threat: ThreatModel
) -> PlannedEvaluation:
    """Return an evaluation with its needs found in the plan.

    Args:
        evaluation: the evaluation.
        planned: those that it may read.
        threat: the suite's.

    Raises:
        UsageError: a need is not met, or the evaluation's budget is not the threat's.
    """
    where, inputs = f"evaluation {evaluation.entry.key}", []
    for need in evaluation.evaluation.needs:
        found = _find(need, [p for p in planned if p.entry.split == evaluation.entry.split], threat)
        if found is None and need.optional:
            continue
        if found is None:
            raise UsageError(
                f"{where}: expected an evaluation whose column {need.role!r} it can read at {threat}, got none. Add an "
                "attack at the suite's threat, and leave store_adversarial at its default."
            )
        inputs.append(found)
    eps = evaluation.entry.arguments.get("eps")
    if inputs and eps is not None and list(eps) != [threat.eps]:
        raise UsageError(f"{where}.eps: expected [{threat.eps:g}], the suite's threat, got {eps}. Leave it out.")
    return replace(evaluation, inputs=tuple(inputs))


def _find(need: Need, planned: Iterable[PlannedEvaluation], threat: ThreatModel) -> Input | None:
    """Return the column of a need: of those at the threat that are stored, the one of the highest-ranked attack."""
    best, found = -1, None
    for evaluation in planned:
        if evaluation.entry.arguments.get("peer"):  # a reference implementation beside the attack itself
            continue
        columns = evaluation.columns
        for name, column in columns.items():
            if column.role != need.role or ("eps" in column.params and not threat.matches(column)):
                continue
            if column.role == "adversarial" and not evaluation.keeps(name):
                continue
            if (rank := _rank(column, columns.values(), threat)) > best:
                best, found = rank, Input(need, evaluation.entry.key, name, rank)
    return found


def _is_reference_attack(evaluation: PlannedEvaluation, threat: ThreatModel) -> bool:
    robust = (c for c in evaluation.columns.values() if c.role == "robust" and threat.matches(c))
    return not evaluation.entry.arguments.get("peer") and any(c.ranks >= REFERENCE_RANK for c in robust)


def _rank(column: Column, columns: Iterable[Column], threat: ThreatModel) -> int:
    """Return the preference of the attack that a column belongs to, 0 where it belongs to none."""
    attack = column.params.get("attack")
    same = (c.ranks for c in columns if c.role == "robust" and threat.matches(c) and c.params.get("attack") == attack)
    return max(same, default=0) if attack else 0
