"""The radii of the balls in which attacks search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from bench.core.arguments import Number, reals
from bench.core.errors import UsageError
from bench.measuring.judge import TOLERANCE

DEFAULT_EPS: Final = {"l2": (0.5,), "linf": (8 / 255,)}  # RobustBench's budgets


def check_budgets(where: str, eps: Number | Sequence[Number], norm: str, shape: Sequence[int] | None) -> list[float]:
    """Return the budgets in rising order, each once.

    Args:
        where: what an error message begins with.
        eps: one budget or several, in the norm's own units on [0, 1] pixels; numbers of any type, or "8/255".
        norm: "l2" or "linf".
        shape: of an image, (C, H, W); None: not known, so that the box bounds no l2 norm.

    Raises:
        UsageError: none given, some that are negative, not finite, or larger than the whole box, or two that differ
            only behind the sixth digit, by which columns are named.
    """
    if isinstance(eps, Sequence) and len(eps) == 0:
        raise UsageError(f"{where}: expected at least one eps, got none. Write eps = [0.5].")
    budgets = sorted(set(reals(where, eps)))
    diagonal = math.inf if shape is None else math.sqrt(math.prod(shape))
    largest = 1.0 if norm == "linf" else diagonal
    wanted = "from 0 up" if largest == math.inf else f"between 0 and {largest:g} (pixels are in [0, 1])"
    wrong = [
        f"{where}: expected every eps {wanted}, got {e:.16g}. "
        + ('For 8 of 255 levels write "8/255".' if e > largest else "A radius is not negative.")
        for e in budgets
        if e < 0 or e > largest * (1 + TOLERANCE)
    ]
    if wrong:
        raise UsageError(*wrong)
    for a, b in pairwise(budgets):
        if f"{a:g}" == f"{b:g}":
            raise UsageError(
                f"{where}: expected numbers that differ in their first six digits, which name the columns, got {a!r} "
                f"and {b!r}. Remove one."
            )
    return budgets
