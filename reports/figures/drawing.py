"""One finished drawing: the SVG that stands in the page, and the same as a file of its own."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias, get_args

from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.colors import to_hex, to_rgba
from matplotlib.figure import Figure as Canvas
from matplotlib.lines import Line2D

from bench.reports.figures import svg
from bench.reports.figures.palette import Style

Format: TypeAlias = Literal["pdf", "png", "svg"]
FORMATS: Final[tuple[Format, ...]] = get_args(Format)
DPI: Final = 200  # of a PNG
# What a file shows in the place of the colours that the page's theme decides.
PRINTED: Final[Mapping[str, str]] = {
    svg.INK: "#1b1d20",
    svg.FAINT: "#5a6068",
    svg.GRID: "#e4e1d9",
    svg.STRONG: "#9a968c",
    svg.PAPER: "#ffffff",
}
_PARTS: Final = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")
# Nothing that changes from one run to the next.
_METADATA: Final[Mapping[Format, dict[str, Any]]] = {
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None, "Format": None, "Type": None},
}


@dataclass(frozen=True)
class Drawing:
    """One drawing.

    Attributes:
        name: unique in the page; [a-z0-9-]+.
        svg: the `<svg>` element as the page shows it, in the theme's colours, its texts escaped.
        canvas: matplotlib's figure behind it.
    """

    name: str
    svg: Markup
    canvas: Canvas = field(repr=False, compare=False)

    def label(self, title: str, legend: Mapping[str, Style]) -> None:
        """Give the drawing what the page says beside it, for files of its own, in printed colours.

        Args:
            title: above it, "" for none.
            legend: name to look, right of it; empty for none.
        """
        axes = self.canvas.axes[0]
        if title:
            axes.set_title(title, fontsize=12, loc="left", color=PRINTED[svg.INK])
        if legend:
            marks = [Line2D([], [], color=look.colour, marker=look.marker, ls="none") for look in legend.values()]
            axes.legend(marks, list(legend), loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        _colour(self.canvas)

    def file(self, form: Format) -> bytes:
        """Return the drawing as a file, on white, the same bytes every time; call `label` before.

        Args:
            form: of the file.
        """
        stream = io.BytesIO()
        looks: Any = {"dpi": DPI, "facecolor": "#ffffff", "bbox_inches": "tight", "pad_inches": 0.05}
        self.canvas.savefig(stream, format=form, metadata=_METADATA[form], **looks)
        return stream.getvalue()


def drawing(canvas: Canvas, name: str, colours: Mapping[str, str]) -> Drawing:
    """Return what is drawn on a canvas.

    Args:
        canvas: matplotlib's figure, drawn.
        name: unique in the page; [a-z0-9-]+.
        colours: lower-case hex colour to the CSS value that replaces it in the page.
    """
    buffer = io.StringIO()
    canvas.savefig(buffer, format="svg", metadata=_METADATA["svg"])
    return Drawing(name, Markup(svg.embed(buffer.getvalue(), name, colours)), canvas)


def _colour(canvas: Canvas) -> None:
    """Give every artist the printed colour where it has one of the theme's."""
    for artist in canvas.findobj():
        for part, value in _colours_of(artist):
            getattr(artist, f"set_{part}")(value)


def _colours_of(artist: Artist) -> Iterator[tuple[str, Any]]:
    """Yield the parts of an artist that have a colour of the theme, with the printed one, opacity kept."""
    for part in _PARTS:
        get = getattr(artist, f"get_{part}", None)
        found = get() if get is not None and hasattr(artist, f"set_{part}") else None
        if found is None or len(found) == 0 or (isinstance(found, str) and found in ("none", "auto")):
            continue
        several = not isinstance(found, str) and not isinstance(found[0], int | float)
        values = [found[0]] if several else [found]
        printed = PRINTED.get(to_hex(values[0]))
        if printed is not None:
            yield part, to_rgba(printed, to_rgba(values[0])[3])
