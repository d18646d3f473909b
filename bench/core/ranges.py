"""Ranges of hyper-parameters and arguments, declared where they are: `steps: Annotated[int, Ge(1)] = 10`.

The marks are those of `annotated_types`. A suite file, a defense spec, the command line and a direct call of an attack
are checked against them.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Final

from annotated_types import Ge, GroupedMetadata, Gt, Interval, Le, Lt

from bench.core.arguments import shown
from bench.core.errors import UsageError

__all__ = ["Ge", "Gt", "Interval", "Le", "Lt", "check_ranges"]

_SIGNS: Final = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def check_ranges(where: str, arguments: Mapping[str, object], annotations: Mapping[str, object]) -> None:
    """Refuse numbers outside the ranges that a function declares; what is no number is the function's own business.

    Args:
        where: what an error message begins with.
        arguments: of a call, by name.
        annotations: of the function's parameters, by name.

    Raises:
        UsageError: a number is NaN or out of its range.
    """
    for name, value in arguments.items():
        if not isinstance(value, int | float):
            continue
        limits = list(_limits(annotations.get(name)))
        if not all(_holds(value, sign, limit) for sign, limit in limits):
            wanted = " and ".join(f"{sign} {limit:g}" for sign, limit in limits)
            raise UsageError(f"{where}: {name}: expected a number {wanted}, got {shown(value)}. Change it.")


def _limits(annotation: object) -> Iterator[tuple[str, float]]:
    """Yield sign and limit of every mark of an annotation, of those inside `X | None` too."""
    if typing.get_origin(annotation) is Annotated:
        inner, *marks = typing.get_args(annotation)
        for mark in marks:
            for bound in mark if isinstance(mark, GroupedMetadata) else (mark,):
                yield from ((sign, getattr(bound, k)) for k, sign in _SIGNS.items() if hasattr(bound, k))
        yield from _limits(inner)
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _limits(part)


def _holds(value: float, sign: str, limit: float) -> bool:
    """Tell whether a comparison holds; none does for NaN."""
    return {">=": value >= limit, ">": value > limit, "<=": value <= limit, "<": value < limit}[sign]
