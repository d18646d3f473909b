"""The board's own columns of brackets: what is proved and what is broken, and the places that no attack can change."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bench.core.records import Column, ThreatModel
from bench.reports.board.columns import BoardColumn, Form
from bench.reports.board.parts import BRACKET

SOURCE: Final = "McNemar 1947 (exact, one-sided) at the ends of the brackets, Holm 1979"


def bracket_columns(at: ThreatModel, *, shown: bool) -> tuple[BoardColumn, ...]:
    """Return the columns of one budget: best and worst proved rank, and the bracket in words.

    Args:
        at: norm and radius.
        shown: whether the page's table shows them from the start.
    """
    return (
        _column(
            at,
            "proved_rank_low_{norm}_{eps}",
            "Best proved rank",
            "count",
            Column(
                "Best place however the unknown images turn out: what no further attack can change.",
                "place",
                "count",
                direction="lower",
                formula="1 + number better at the worst resolution of the unknowns (Holm over ordered pairs, 5 %)",
                source=SOURCE,
                shown=shown,
            ),
        ),
        _column(
            at,
            "proved_rank_high_{norm}_{eps}",
            "Worst proved rank",
            "count",
            Column(
                "Worst place however the unknown images turn out; a row without certificates is better than none.",
                "place",
                "count",
                direction="lower",
                formula="K − number that it is better than at the worst resolution (Holm over ordered pairs, 5 %)",
                source=SOURCE,
                shown=shown,
            ),
        ),
        _column(
            at,
            BRACKET,
            "Bracket",
            "text",
            Column(
                "Per cent of images proved right at the budget, of those that nothing has broken, and the rest.",
                kind="text",
                formula="proved ≥ certified, broken ≤ best known, unknown their difference",
                shown=shown,
            ),
        ),
    )


def _column(at: ThreatModel, pattern: str, heading: str, form: Form, facts: Column) -> BoardColumn:
    params: dict[str, float | str] = {"norm": at.norm, "eps": at.eps}
    name = pattern.format(norm=at.norm, eps=f"{at.eps:g}")
    return BoardColumn(
        name, replace(facts, pattern=pattern, params=params), heading=heading, form=form, detail=f"ε\u00a0{at.eps:g}"
    )
