"""Arguments of Python calls: numbers of any numeric type and "8/255" are what they mean; the rest is refused.

What a suite file and the command line may hold is checked in `bench.config`; both read fractions here.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterable
from typing import Final, SupportsFloat

from bench.core.errors import UsageError

LARGEST_INT: Final = 2**63 - 1  # what every file format here can hold
Number = SupportsFloat | str  # Python's numbers, a scalar of numpy or torch, or a text such as "8/255"
FRACTION = re.compile(r"(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)")


def fraction(value: object) -> object:
    """Return the float that a text such as "8/255" stands for; any other value as it is."""
    found = FRACTION.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or float(found[2]) == 0:
        return value
    return float(found[1]) / float(found[2])


def real(where: str, value: object) -> float:
    """Return a number as a finite float.

    Args:
        where: what an error message begins with, e.g. "evaluate: eps".
        value: a number of Python, numpy or torch, an array or tensor of one element, or a text: "0.5", "8/255".

    Raises:
        UsageError: something else, or not finite.
    """
    plain = _plain(fraction(value))
    found = math.nan
    if isinstance(plain, str | SupportsFloat) and not isinstance(plain, bool):
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            found = float(plain)
    if not math.isfinite(found):
        raise UsageError(f'{where}: expected a finite number, got {shown(value)}. Write 0.5 or "8/255".')
    return found


def reals(where: str, value: object) -> list[float]:
    """Return one number or several as finite floats; arguments and errors as for `real`, at least one.

    Args:
        where: what an error message begins with.
        value: a number, or a sequence, array or tensor of them.

    Raises:
        UsageError: none, or one that is no finite number.
    """
    if isinstance(value, str) or not isinstance(value, Iterable) or getattr(value, "ndim", 1) == 0:
        return [real(where, value)]
    found = [real(where, item) for item in value]
    if not found:
        raise UsageError(f"{where}: expected at least one number, got none. Write {where.split()[-1]}=[0.5].")
    return found


def whole(where: str, value: object, low: int = 0, high: int = LARGEST_INT) -> int:
    """Return a whole number as an int.

    Args:
        where: what an error message begins with, e.g. "evaluate: limit".
        value: a whole number of any numeric type.
        low: the smallest that is accepted.
        high: the largest.

    Raises:
        UsageError: something else, or out of range.
    """
    found = _plain(value)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if isinstance(found, bool) or not isinstance(found, int) or not low <= found <= high:
        most = "" if high == LARGEST_INT else f" to {high}"
        up = " up" if not most else ""
        raise UsageError(f"{where}: expected a whole number from {low}{most}{up}, got {shown(value)}. Change it.")
    return found


def _plain(value: object) -> object:
    """Return the Python value of a scalar of numpy or torch, or of an array of one element; others as they are."""
    item = getattr(value, "item", None)
    if not callable(item):
        return value
    try:
        return item()
    except (ValueError, RuntimeError, TypeError):  # several elements, or a tensor without values
        return value


def shown(value: object) -> str:
    """Return a value as a message shows it, at most about 80 characters."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python prints
        return "a number of thousands of digits"
    return text if len(text) <= 80 else f"{text[:77]}..."
