"""The table of `doctor --detection`: what each attack finds of the planted truth, against hardness."""

from __future__ import annotations

import math

from rich.table import Table

from bench.trust.detection_curves import DetectionReport, MeasuredLevel


def detection_table(report: DetectionReport) -> Table:
    """Return one row per attack: percent found at each level with its 95 % interval, and its limit in bits."""
    images = report.curves[0].images * len(report.seeds)
    view = Table(
        title=f"share of planted adversarial examples found, % [95 %], {images} images on {len(report.seeds)} networks",
        title_justify="left",
        header_style="bold",
        caption="hardness: −log2 of the share of uniform starts whose largest piece is the planted one. It grades the\n"
        "search among many basins (multi-basin truth), not gradient masking. * no decoys in the planted class",
        caption_justify="left",
    )
    view.add_column("hardness, bits")
    for level in report.levels:
        view.add_column(_heading(level), justify="right")
    view.add_column("limit", justify="right")
    for curve in report.curves:
        cells = [
            f"{100 * share:.0f} [{100 * low:.0f}, {100 * high:.0f}]"
            for share, (low, high) in zip(curve.shares(), curve.intervals(), strict=True)
        ]
        limit = report.limit(curve)
        cells.append(("≥ " if math.isinf(limit.missed) else "") + f"{limit.bits:.1f}")
        view.add_row(curve.attack, *cells, style="bold" if curve.ranks_suites else None)
    return view


def _heading(level: MeasuredLevel) -> str:
    return f"{level.hardness:.2g}" + ("" if level.level.own else "*")
