"""Robust accuracy against the budget, with Wilson bands."""

from __future__ import annotations

from typing import Any

from matplotlib.ticker import FuncFormatter

from bench.reports import formatting
from bench.reports.board.model import Board, BoardColumn
from bench.reports.figures import plot_data
from bench.reports.figures.sheet import Figure, Panel, Sheet, room, slug, ticks

DIRECT = 10  # defenses up to which curves are labelled at their ends


def accuracy_against_eps(board: Board, tables: plot_data.Tables) -> Figure | None:
    """Draw robust accuracy against eps with Wilson bands, one panel per attack that ran at several budgets."""
    families = plot_data.families(board, fractions=True)
    rows, panels, table = plot_data.drawn(board), [], []
    single = [c for c in board.columns if c.name == board.ranking and c.number and plot_data.stem(c) not in families]
    budgets = sorted({0.0} | {c.number for columns in families.values() for c in columns if c.number is not None})
    rings = _rings(board) if single else ""
    for family, columns in families.items():
        sheet = Sheet(board, 620, 400, (50, room(rows) if len(rows) <= DIRECT else 14, 44, 8))
        ends, lowest = {}, 100.0
        for row in rows:
            points = [(0.0, row.cells.get("clean_accuracy"))] + [(c.number, row.cells.get(c.name)) for c in columns]
            kept = [(e, c, c.value) for e, c in points if c is not None and c.value is not None and e is not None]
            kept = [(e, c, value) for e, c, value in kept if not formatting.missing(value)]
            middle = [100 * value for *_, value in kept]
            low = [100 * (value if c.low is None else c.low) for _, c, value in kept]
            high = [100 * (value if c.high is None else c.high) for _, c, value in kept]
            band = sheet.axes.fill_between(
                [e for e, *_ in kept], low, high, color=sheet.looks[row.defense].colour, alpha=0.07, lw=0
            )
            sheet.mark(band, row)
            sheet.line(row, [e for e, *_ in kept], middle)
            if kept:
                ends[row.defense] = middle[-1]
                lowest = min(lowest, *low)
            for other in single:
                if (reached := plot_data.value(row, other.name)) is not None:
                    ring: Any = {"mfc": "none", "mew": 1.4, "ms": 8, "marker": "o", "clip_on": False}
                    colour, budget = sheet.looks[row.defense].colour, other.number or 0.0
                    sheet.mark(sheet.axes.plot([budget], [100 * reached], color=colour, **ring)[0], row)
            told = {e: formatting.percent(c.value, c.n) for e, c, _ in kept}
            table.append((row.defense, formatting.label(family), *(told.get(e, formatting.MISSING) for e in budgets)))
        last, bottom = columns[-1].number or 0.0, max(-2.0, 10 * (lowest // 10) - 2)
        sheet.axes.set(xlabel="Perturbation budget ε (ε = 0: clean images)", ylabel="", ylim=(bottom, 102))
        ticks(sheet.axes, [0.0, *(c.number or 0.0 for c in columns)], "{:g}", "x", least=0.03 * last)
        sheet.axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.0f} %"))
        sheet.axes.grid(visible=False, axis="x")
        sheet.axes.set_xlim(-0.02 * last, 1.02 * last)
        if len(rows) <= DIRECT:
            sheet.label_ends(rows, ends, last, gap=0.044 * (102 - bottom))
        panels.append(Panel(f"Under {formatting.label(family)}", sheet.finish(f"accuracy-{slug(family)}")))
    if not panels:
        return None
    return Figure(
        name="accuracy-against-eps",
        title="How robust accuracy falls as the attacker may change more",
        caption="Share of test images still classified right when each may be moved by up to ε. Lines are means over "
        f"seeds; bands are 95 % Wilson intervals over test images.{rings}",
        alt=_eps_alt(board, next(iter(families.values()))),
        panels=tuple(panels),
        legend="narrow" if len(rows) <= DIRECT else "always",
        wide=True,
        header=("Defense", "Attack", *(f"ε = {e:g}, %" for e in budgets)),
        numbers=tuple(table),
    )


def _rings(board: Board) -> str:
    """Say what the rings are, on how many images, and why one may stand above its curve where these are fewer."""
    rows = [r for r in plot_data.drawn(board) if board.ranking in r.cells]
    n = max((r.cells[board.ranking].n for r in rows), default=0)
    columns = [column for family in plot_data.families(board, fractions=True).values() for column in family]
    fewer = any(n < r.cells[column.name].n for r in rows for column in columns if column.name in r.cells)
    above = ", fewer than the curves': a ring may stand above its curve though its attack is stronger"
    return f" Rings: {plot_data.title(board)}, on {formatting.plural(n, 'image')}{above if fewer else ''}."


def _eps_alt(board: Board, columns: list[BoardColumn]) -> str:
    """Say the curves in words: each defense's value at the smallest and the largest budget."""
    first, last = columns[0], columns[-1]
    parts = [
        f"{row.defense} {formatting.percent(plot_data.value(row, first.name), row.n)} % to "
        f"{formatting.percent(plot_data.value(row, last.name), row.n)} %"
        for row in plot_data.drawn(board)
    ]
    return f"Accuracy from ε = {first.number:g} to ε = {last.number:g}: {'; '.join(parts)}."
