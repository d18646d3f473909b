"""One evaluation of a suite, checked against its signature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.config.setting import settable
from bench.config.validation import check, check_defaults, explain, show
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


class _EntryTable(BaseModel):
    """The keys of `[evaluations.<key>]` that are not the evaluation's own arguments."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True)

    evaluation: str = ""
    limit: int | None = Field(None, ge=1, le=LARGEST_INT)
    split: Literal["test", "train"] = "test"
    seed: int = Field(0, ge=0, le=LARGEST_INT)


def parse_evaluation(
    where: str, key: str, table: Mapping[str, object], shape: tuple[int, int, int]
) -> EvaluationConfig:
    """Check one `[evaluations.<key>]` against its evaluation's signature and fill in the defaults.

    Args:
        where: what an error message begins with.
        key: the suite's name for it; the evaluation's name, unless the table has another.
        table: its keys and values.
        shape: (C, H, W) of an image, which bounds the radii.

    Returns:
        The evaluation with every argument, radii sorted.

    Raises:
        UsageError: an unknown evaluation or argument, a value or default of another type or range, or a key that is
            no name.
    """
    if not registry.NAME.fullmatch(key):
        raise UsageError(f"{where}: expected a name matching {registry.NAME.pattern}, got {show(key)}. Rename it.")
    try:
        head = _EntryTable.model_validate(table)
    except ValidationError as error:
        raise UsageError(f"{where}.{explain(error, _EntryTable)}") from error
    name = head.evaluation or key
    try:
        entry = registry.evaluations.get(name)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error
    known = settable(entry)
    check_defaults(f"{where}: {name}", entry.hyperparameters, known)
    arguments = dict(entry.hyperparameters)
    for argument, value in (head.model_extra or {}).items():
        if argument not in known:
            hint = did_you_mean(argument, [*known, *_EntryTable.model_fields])
            raise UsageError(f"{where}: expected an argument of {name}, got {argument!r}. {hint}")
        arguments[argument] = check(f"{where}.{argument}", value, known[argument])
    for argument, value in arguments.items():
        if value is ...:
            raise UsageError(f"{where}: expected {argument}, which {name} needs, got nothing. Add it.")
        if argument in ("eps", "radius"):
            norm = norm_of(entry, argument)
            arguments[argument] = check_radii(f"{where}.{argument}", value, norm, shape)
        elif isinstance(value, tuple):
            arguments[argument] = list(value)
    return EvaluationConfig(key, name, arguments, head.limit, head.split, head.seed)


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


def check_radii(where: str, values: Any, norm: str, shape: tuple[int, int, int]) -> list[float]:
    """Return radii sorted, each once.

    Args:
        where: what an error message begins with.
        values: one radius or several, on pixels in [0, 1]; numbers of any type, or "8/255".
        norm: "l2" or "linf".
        shape: (C, H, W) of an image.

    Raises:
        UsageError: one is larger than the box [0, 1]^d itself, as 128 for 128/255 is.
    """
    from bench.measuring.budgets import check_budgets

    return check_budgets(where, values, norm, shape)
