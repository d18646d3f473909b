"""Sets of columns that a reader may want together; the address of the page names the one that is shown."""

from __future__ import annotations

from dataclasses import dataclass

from bench.core.records import Role
from bench.reports.board.columns import COST, TRUST
from bench.reports.html.ranking_table import TableColumn

GEOMETRY: tuple[Role, ...] = ("gradient_norm", "hessian_norm", "curvature")
ROBUST: tuple[Role, ...] = ("clean", "robust", "best_known", "transfer", "certified", "corruption", "violations")


@dataclass(frozen=True)
class Preset:
    """One set of columns.

    Attributes:
        name: in the page's address.
        label: what the reader chooses.
        columns: their names, beside place and defense.
    """

    name: str
    label: str
    columns: tuple[str, ...]


def presets(columns: list[TableColumn]) -> list[Preset]:
    """Return the sets of columns that a board has something for, the one that is shown first as the first.

    Args:
        columns: of the table.
    """
    measured = [c for c in columns if c.column.split == "test"]
    trust, cost = ({c.name for c in group} for group in (TRUST, COST))
    table_1 = [c for c in measured if c.facts.role in ("clean", *GEOMETRY)]
    robust = [c for c in measured if c.facts.role in ROBUST or c.name in trust]
    found = [
        Preset("main", "Main", _names([c for c in columns if c.shown])),
        Preset("table1", "Paper’s Table 1", _names(table_1)),
        Preset("robust", "Robust", _names(robust)),
        Preset("cost", "Cost", _names([c for c in columns if c.ranking or c.name in cost | {"parameters"}])),
        Preset("all", "All", _names(columns)),
    ]
    if not any(c.facts.role in GEOMETRY for c in table_1):
        del found[1]
    return found


def _names(columns: list[TableColumn]) -> tuple[str, ...]:
    return tuple(c.name for c in columns)
