"""One evaluation of a suite, checked against its signature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.config.problems import Problems
from bench.config.setting import settable
from bench.config.validation import check, check_defaults, explained, right_items, show
from bench.core import registry
from bench.core.arguments import LARGEST_INT
from bench.core.errors import UsageError, did_you_mean
from bench.core.records import Evaluation


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """One evaluation of a suite.

    Attributes:
        key: the suite's name for it, unique.
        evaluation: the registered name; usually the same.
        arguments: every keyword argument of the evaluation, defaults filled in, lists as lists.
        limit: first N images of the split; None means all.
        split: "test", or "train" without augmentation.
        seed: seed of the evaluation's own draws.
        sample: so many of these images, drawn at random; None: all of them.
    """

    key: str
    evaluation: str
    arguments: dict[str, Any]
    limit: int | None = None
    split: Literal["test", "train"] = "test"
    seed: int = 0
    sample: int | None = None


class EntryTable(BaseModel):
    """The keys of `[evaluations.<key>]` that are not the evaluation's own arguments.

    Attributes:
        evaluation: which one it is, where the table has a name of its own.
        limit: measure the first so many images; all without it.
        split: of the data set: its test images, or those that it trains on.
        seed: of random draws; each image has its own.
    """

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    evaluation: str = ""
    limit: int | None = Field(None, ge=1, le=LARGEST_INT)
    split: Literal["test", "train"] = "test"
    seed: int = Field(0, ge=0, le=LARGEST_INT)


def parse_evaluation(
    where: str, key: str, table: Mapping[str, object], shape: tuple[int, int, int] | None
) -> EvaluationConfig:
    """Check one `[evaluations.<key>]` against its evaluation's signature and fill in the defaults.

    Args:
        where: what an error message begins with.
        key: the suite's name for it; the evaluation's name, unless the table has another.
        table: its keys and values.
        shape: (C, H, W) of an image, which bounds the radii; None: not known.

    Returns:
        The evaluation with every argument, radii sorted.

    Raises:
        UsageError: an unknown evaluation or argument, a value or default of another type or range, or a key that is
            no name; all that is wrong at once.
    """
    if not registry.NAME.fullmatch(key):
        raise UsageError(f"{where}: expected a name matching {registry.NAME.pattern}, got {show(key)}. Rename it.")
    problems = Problems()
    own = {k: v for k, v in table.items() if k not in EntryTable.model_fields}
    name = str(table.get("evaluation") or key)
    with problems.found_in():
        entry = registry.evaluations.get(name, where)
        with problems.found_in():
            arguments = _arguments(where, entry, own, shape)
    with problems.found_in():
        head = _head(where, table)
    problems.raise_if_any()
    return EvaluationConfig(key, name, arguments, head.limit, head.split, head.seed)


def _head(where: str, table: Mapping[str, object]) -> EntryTable:
    """Return the keys that every evaluation has.

    Raises:
        UsageError: some are of the wrong type or out of range.
    """
    try:
        return EntryTable.model_validate(table)
    except ValidationError as error:
        raise UsageError(*(f"{where}.{line}" for line in explained(error, EntryTable))) from error


def _arguments(
    where: str, entry: Evaluation, given: Mapping[str, object], shape: tuple[int, int, int] | None
) -> dict[str, Any]:
    """Return an evaluation's arguments, defaults filled in.

    Raises:
        UsageError: some are unknown, missing, or of another type or range; all of them are named.
    """
    known, problems = settable(entry), Problems()
    check_defaults(f"{where}: {entry.name}", entry.hyperparameters, known)
    arguments = dict(entry.hyperparameters)
    for argument, value in given.items():
        with problems.found_in():
            if argument not in known:
                hint = did_you_mean(argument, [*known, *EntryTable.model_fields])
                raise UsageError(f"{where}: expected an argument of {entry.name}, got {argument!r}. {hint}")
            arguments[argument] = right_items(value, known[argument]) or arguments[argument]
            arguments[argument] = check(f"{where}.{argument}", value, known[argument])
    for argument, value in arguments.items():
        with problems.found_in():
            if value is ...:
                raise UsageError(f"{where}: expected {argument}, which {entry.name} needs, got nothing. Add it.")
            if argument in ("eps", "radius"):
                arguments[argument] = check_radii(f"{where}.{argument}", value, norm_of(entry, argument), shape)
            elif isinstance(value, tuple):
                arguments[argument] = list(value)
    problems.raise_if_any()
    return arguments


def default_evaluation(name: str, seed: int = 0) -> EvaluationConfig:
    """Return a registered evaluation with its defaults, on all test images; arguments without one are left out.

    Args:
        name: the registered name.
        seed: seed of the evaluation's own draws.

    Raises:
        UsageError: no such evaluation, or a default out of its range.
    """
    entry = registry.evaluations.get(name)
    defaults = entry.hyperparameters
    check_defaults(f"evaluation {name}", defaults, settable(entry))
    return EvaluationConfig(name, name, {k: v for k, v in defaults.items() if v is not ...}, seed=seed)


def norm_of(evaluation: Evaluation, argument: str) -> str:
    """Return the norm that the columns named after a radius are measured in; l2 where they declare none."""
    columns = evaluation.columns.items()
    return next((str(c.params["norm"]) for n, c in columns if f"{{{argument}}}" in n and "norm" in c.params), "l2")


def check_radii(where: str, values: Any, norm: str, shape: tuple[int, int, int] | None) -> list[float]:
    """Return radii sorted, each once.

    Args:
        where: what an error message begins with.
        values: one radius or several, on pixels in [0, 1]; numbers of any type, or "8/255".
        norm: "l2" or "linf".
        shape: (C, H, W) of an image; None: not known.

    Raises:
        UsageError: some are negative, or larger than the box [0, 1]^d itself, as 128 for 128/255 is.
    """
    from bench.measuring.budgets import check_budgets

    return check_budgets(where, values, norm, shape)
