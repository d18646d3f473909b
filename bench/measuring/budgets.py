"""The radii of the balls in which attacks search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from bench.core.errors import UsageError
from bench.measuring.judge import TOLERANCE

DEFAULT_EPS: Final = {"l2": (0.5,), "linf": (8 / 255,)}  # RobustBench's budgets


def check_budgets(where: str, eps: float | Sequence[float], norm: str, shape: Sequence[int]) -> list[float]:
    """Return the budgets in rising order, each once.

    Args:
        where: what an error message begins with.
        eps: one budget or several, in the norm's own units on [0, 1] pixels.
        norm: "l2" or "linf".
        shape: of an image, (C, H, W).

    Raises:
        UsageError: none given, or one that is negative, not finite, or larger than the whole box.
    """
    budgets = sorted({float(e) for e in ([eps] if isinstance(eps, int | float) else eps)})
    largest = 1.0 if norm == "linf" else math.sqrt(math.prod(shape))
    for e in budgets:
        if not math.isfinite(e) or e < 0 or e > largest * (1 + TOLERANCE):
            raise UsageError(
                f"{where}: expected every eps between 0 and {largest:g} (pixels are in [0, 1]), got {e:g}. "
                'For 8 of 255 levels write "8/255".'
            )
    if not budgets:
        raise UsageError(f"{where}: expected at least one eps, got none. Write eps = [0.5].")
    return budgets
