"""What an evaluation returned of one batch, checked before anything is stored of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from torch import Tensor

from bench.core.column_names import check_column_names
from bench.core.errors import BenchError
from bench.core.records import Column
from bench.core.text import is_plain, one_line

Columns = dict[str, np.ndarray]  # name to one value, or image, per example
LONGEST: Final = 1_000  # characters of a text per example


def checked_columns(where: str, columns: object, facts: Mapping[str, Column], n: int) -> Columns:
    """Return the columns of one batch as arrays, texts cleaned.

    Args:
        where: what an error message begins with.
        columns: what the evaluation returned: name to one value per example.
        facts: what its columns are, as far as they are declared.
        n: number of examples.

    Returns:
        Name to array.

    Raises:
        BenchError: a column has another length, a name that is reserved, or values that are no numbers, flags or
            texts, or not finite. NaN means missing, in a column that is not declared to be a flag.
    """
    if not isinstance(columns, Mapping):
        raise BenchError(f"{where}: expected a dict of columns, got {type(columns).__name__}. Return one.")
    check_column_names(where, columns)
    found = {}
    for name, values in columns.items():
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        if array.ndim == 0 or len(array) != n:
            got = "a single one" if array.ndim == 0 else str(len(array))
            raise BenchError(
                f"{where}: expected {n} values in column {name!r}, got {got}. Return one value per example."
            )
        found[name] = _checked(f"{where}: column {name!r}", array, facts.get(name))
    return found


def _checked(where: str, values: np.ndarray, facts: Column | None) -> np.ndarray:
    """Return the values of a column, texts cleaned; refuse what is not finite and what no table can hold."""
    if values.dtype.kind == "f":
        may_be_missing = values.ndim == 1 and (facts is None or facts.kind != "flag")
        bad = np.isinf(values) if may_be_missing else ~np.isfinite(values)
        if bad.any():
            at = int(np.argwhere(bad)[0][0])
            raise BenchError(
                f"{where}: expected finite numbers, got {_shown(values[bad][0])} for {_count(bad)} of {len(values)} "
                f"images (first at position {at} of the batch). Return NaN, as a value, where there is none."
            )
        return values
    if values.dtype.kind in "biu":
        return values
    if values.ndim == 1 and values.dtype.kind in "UO" and all(map(_is_entry, values)):
        texts = [v if not isinstance(v, str) or is_plain(v, LONGEST) else one_line(v, LONGEST) for v in values]
        return values if all(a is b for a, b in zip(texts, values, strict=True)) else np.array(texts, dtype=object)
    got: Any = (
        values.dtype
        if values.dtype.kind != "O"
        else next((type(v).__name__ for v in values.flat if not _is_entry(v)), "texts of several dimensions")
    )
    raise BenchError(f"{where}: expected numbers, flags or texts, got {got}. Convert them.")


def _is_entry(value: object) -> bool:
    """Tell whether an object may be an entry of a column: a text, or a flag, None where it is missing."""
    return value is None or isinstance(value, str | bool | np.bool_)


def _shown(value: float) -> str:
    return "NaN" if np.isnan(value) else "infinity"


def _count(bad: np.ndarray) -> int:
    """Return on how many images something is bad."""
    return int(bad.reshape(len(bad), -1).any(1).sum())
