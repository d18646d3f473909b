"""Per-example numbers that several attacks put into their trace, as columns."""

from __future__ import annotations

from typing import Final

from bench.core.records import Column

ZERO_GRADIENT: Final = Column(
    "Steps that had no gradient to follow.", kind="count", aggregate="sum", direction="none", shown=False
)
