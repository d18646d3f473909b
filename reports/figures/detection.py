"""Share of planted adversarial examples that attacks find, against hardness; drawn in the section on trust."""

from __future__ import annotations

from bench.reports.board.instruments import Detection, DetectionCurve
from bench.reports.board.model import Board
from bench.reports.figures.drawing import Drawing
from bench.reports.figures.figure import Figure, Panel
from bench.reports.figures.labels import spread, within
from bench.reports.figures.palette import styles
from bench.reports.figures.sheet import WIDE, Sheet
from bench.reports.figures.svg import PAPER, STRONG
from bench.reports.figures.ticks import percent_ticks
from bench.reports.formatting import Entry, Value

REQUIRED = 95  # per cent that defines an attack's limit
GAP = 7.0  # per cent between two names at the ends of curves


def detection_figure(board: Board, found: Detection) -> Figure:
    """Draw recall against hardness with Wilson bands: the suites' own attacks, and those that reach at least as far.

    Args:
        board: it gives the page's style.
        found: what was measured.

    Returns:
        The figure, with a table of every attack.
    """
    best = max(found.own or found.attacks, key=lambda curve: curve.limit_bits)
    chosen = [curve for curve in found.attacks if curve.used_by_suites or curve.limit_bits >= best.limit_bits]
    return Figure(
        name="detection",
        title=f"The best attack of the suites, {best.attack}, finds {REQUIRED} % of what is known to be there up to "
        f"{best.limit} bits of hardness",
        caption="Networks in which every image has an adversarial example within ε, in a place that is known by proof, "
        "among decoys with correct gradients. Hardness is −log₂ of the share of random starts that lead to it. Bands "
        f"are 95 % Wilson intervals over {_images(found, best):,} images of {len(found.network_seeds)} networks per "
        f"level; the dashed line is {REQUIRED} %. It measures the search among many basins: it says nothing of masked "
        "gradients, and the limits are not those on trained networks.",
        alt=f"Share found falls with hardness. Up to which each finds {REQUIRED} %: "
        + ", ".join(f"{curve.attack} {curve.limit} bits" for curve in chosen)
        + ".",
        panels=(Panel("", _drawn(board, found, chosen)),),
        legend="never",
        wide=True,
        header=("Attack", *(_heading(found, k) for k in range(len(found.levels))), "Limit, bits"),
        numbers=tuple(map(_line, found.attacks)),
    )


def _images(found: Detection, curve: DetectionCurve) -> int:
    return curve.images_per_network * len(found.network_seeds)


def _drawn(board: Board, found: Detection, curves: list[DetectionCurve]) -> Drawing:
    sheet = Sheet(board, (WIDE[0], 340), (50, 160, 48, 8))
    sheet.looks = styles(curve.attack for curve in curves)
    own = [(level.hardness_bits, k) for k, level in enumerate(found.levels) if level.own_decoys]
    known = sorted((bits, k) for bits, k in own if bits is not None)
    bits = [x for x, _ in known]
    for curve in curves:
        look, shares = sheet.looks[curve.attack], [100 * curve.share[k] for _, k in known]
        low, high = ([100 * curve.interval[k][end] for _, k in known] for end in (0, 1))
        sheet.axes.fill_between(bits, low, high, color=look.colour, alpha=0.1, lw=0)
        width = 2.4 if curve.used_by_suites else 1.3
        (line,) = sheet.axes.plot(
            bits, shares, color=look.colour, marker=look.marker, lw=width, markeredgecolor=PAPER, markeredgewidth=0.7
        )
        if not curve.used_by_suites:
            line.set_dashes((4, 1.6))
    sheet.axes.axhline(REQUIRED, color=STRONG, lw=0.8, ls=(0, (3, 3)))
    sheet.axes.set(xlabel="Hardness, bits", ylabel="Found, %", ylim=(0, 103))
    percent_ticks(sheet.axes)
    order = sorted(curves, key=lambda curve: curve.share[known[-1][1]])
    places = within(spread([100 * curve.share[known[-1][1]] for curve in order], GAP), GAP, 0, 103)
    for curve, height in zip(order, places, strict=True):
        colour = sheet.looks[curve.attack].colour
        at = (bits[-1], height)
        sheet.axes.annotate(
            curve.attack, at, (8, 0), textcoords="offset points", va="center", color=colour, annotation_clip=False
        )
    return sheet.finish("detection")


def _heading(found: Detection, place: int) -> str:
    level = found.levels[place]
    bits = "∞" if level.hardness_bits is None else f"{level.hardness_bits:.2f}"
    return f"{bits} bits{'' if level.own_decoys else ', planted class without decoys'}"


def _line(curve: DetectionCurve) -> tuple[Entry, ...]:
    cells = (
        f"{100 * share:.0f} [{100 * low:.0f}, {100 * high:.0f}]"
        for share, (low, high) in zip(curve.share, curve.interval, strict=True)
    )
    name = f"{curve.attack}, used by the suites" if curve.used_by_suites else curve.attack
    return Value(f"{name} ({curve.settings})"), *(Value(cell) for cell in cells), Value(curve.limit)
