"""Relative change of the gradient against the radius of the noise (the paper's Figure 2)."""

from __future__ import annotations

import numpy as np

from bench.reports import formatting
from bench.reports.board.model import Board, BoardColumn, Row
from bench.reports.figures import plot_data, svg
from bench.reports.figures.sheet import Figure, Panel, Sheet, log_ticks, slug

# How the lines of one quantity beside another are drawn: words, dash, whether in the defense's colour.
KINDS: dict[str, tuple[str, tuple[float, ...], bool]] = {
    "": ("measured, random direction", (), True),
    "worst": ("measured, worst direction", (4, 1.6), True),
    "approximation": ("quadratic approximation", (1.2, 1.6), False),
    "bound": ("bound, estimated from these radii", (5, 1.6, 1.2, 1.6), False),
}


CEILING = 1e2  # of the stability axis: beyond it a bound says nothing


def gradient_stability(board: Board, tables: plot_data.Tables) -> Figure | None:
    """Draw the relative gradient change over radii beside approximation and bound, one panel per defense (Figure 2)."""
    families = plot_data.families(board, fractions=False)
    if not families:
        return None
    family, columns = next(iter(families.items()))
    rows = plot_data.drawn(board)
    data = {row.defense: plot_data.curves(board, tables[row.defense], family) for row in rows}
    measured = [v for curves in data.values() for c in curves if not c.kind for v in c.low if v > 0]
    radii = [c.number for c in columns if c.number is not None]
    if not measured:
        return None
    highest = max(v for curves in data.values() for c in curves for v in c.middle if np.isfinite(v))
    floor, top = 10 ** np.floor(np.log10(min(measured))), min(CEILING, 10 ** np.ceil(np.log10(highest)))
    panels, table = [], []
    for row in rows:
        sheet = Sheet(board, 280, 230, (46, 12, 24, 8))
        for curve in data[row.defense]:
            text, dash, own = KINDS.get(curve.kind, (formatting.label(curve.kind), (2, 2), False))
            colour = sheet.looks[row.defense].colour if own else svg.FAINT
            middle = np.clip(curve.middle, floor / 10, top * 10)
            if not curve.kind:
                low, high = (np.clip(v, floor / 10, top * 10) for v in (curve.low, curve.high))
                sheet.axes.fill_between(curve.x, low, high, color=colour, alpha=0.15, lw=0)
            extra = {"dashes": dash} if dash else {}
            sheet.line(row, curve.x, middle, marker=not curve.kind, color=colour, lw=1.8 if own else 1.3, **extra)
            told = dict(zip(curve.x, (formatting.number(float(v)) for v in curve.middle), strict=True))
            table.append((row.defense, text, *(told.get(radius, formatting.MISSING) for radius in radii)))
        sheet.axes.set(xscale="log", yscale="log", ylim=(floor, top), xlim=(min(radii) / 1.1, max(radii) * 1.1))
        log_ticks(sheet.axes, "x", min(radii) / 1.1, max(radii) * 1.1, "{:g}")
        log_ticks(sheet.axes, "y", 2 * floor, top, "{:g}")
        panels.append(Panel(row.defense, sheet.finish(f"stability-{slug(row.anchor)}"), row.anchor))
    kinds = plot_data.companions(board, family)
    beyond = f" Curves above {CEILING:g} leave the frame." if highest > CEILING else ""
    return Figure(
        name="stability",
        title="How far the gradient turns when the image moves",
        caption="Relative change of the loss's gradient (vertical) against the radius of the perturbation "
        "(horizontal), both on log scales; medians over images and seeds, the band holds the middle half. Lower is "
        f"more stable; above 1 the old gradient says nothing.{beyond}",
        alt=_stability_alt(rows, columns[-1]),
        panels=tuple(panels),
        legend="never",
        keys=tuple(_key(kind) for kind in kinds),
        header=("Defense", "Curve", *(f"radius {r:g}" for r in radii)),
        numbers=tuple(table),
    )


def _key(kind: str) -> tuple[str, str]:
    text, dash, _ = KINDS.get(kind, (formatting.label(kind), (2, 2), False))
    return text, " ".join(f"{1.8 * d:g}" for d in dash)


def _stability_alt(rows: list[Row], column: BoardColumn) -> str:
    parts = [f"{r.defense} {formatting.number(plot_data.value(r, column.name))}" for r in rows]
    return f"Mean relative gradient change at radius {column.number:g}: {'; '.join(parts)}."
