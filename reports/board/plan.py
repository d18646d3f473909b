"""How an evaluation's columns were declared, as the plan record has it."""

from __future__ import annotations

from dataclasses import replace
from string import Formatter

from bench.core.records import Column
from bench.store.plan_record import PlanRecord


def described(plan: PlanRecord, evaluation: str, column: Column) -> Column:
    """Return a stored column with the prose of its declaration: description, formula, source and heading.

    Args:
        plan: as `Store.plans.latest` returns it.
        evaluation: key of the evaluation in the plan.
        column: as read from a chunk.
    """
    declared = plan.evaluations[evaluation].columns.get(column.pattern)
    if declared is None:
        return column
    return replace(
        column,
        description=declared.description,
        formula=declared.formula,
        source=declared.source,
        heading=declared.heading,
    )


def board_stem(plan: PlanRecord, evaluation: str, column: Column) -> str:
    """Return the board's name of a family of columns, without the values that tell its members apart.

    Args:
        plan: as `Store.plans.latest` returns it.
        evaluation: key of the evaluation in the plan.
        column: one of the family.
    """
    declared = plan.evaluations[evaluation].columns.get(column.pattern, column)
    return "_".join(part for text, *_ in Formatter().parse(declared.board or "") if (part := text.strip("_")))
