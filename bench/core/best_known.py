"""The column of what is known to be robust: right under the attack and everything that anyone else has found."""

from __future__ import annotations

from bench.core.records import NORM_SYMBOLS, Column


def best_known_columns(norm: str, *, description: str, formula: str, source: str) -> dict[str, Column]:
    """Return the column by the pattern of its name, which has a placeholder for the radius.

    Args:
        norm: "l2" or "linf".
        description: one sentence on what it counts.
        formula: of the flags that it is made of.
        source: paper and place, or where else the examples come from.
    """
    name = f"best_known_{norm}_{{eps}}"
    column = Column(
        description,
        kind="flag",
        board=name,
        aggregate="fraction",
        direction="higher",
        formula=formula,
        source=source,
        role="best_known",
        params={"norm": norm},
        interval="wilson",
        heading=f"Best known {NORM_SYMBOLS.get(norm, norm)}",
    )
    return {f"{name}_robust": column}
