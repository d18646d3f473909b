"""leaderboard.tex."""

from __future__ import annotations

import re
from textwrap import wrap
from typing import Final

from bench.core.text import one_line
from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.exports.registry import export
from bench.reports.exports.short_table import ShortCell, ShortColumn, place, short_cell, short_columns

WORDS: Final = 12  # letters of a heading's line
SMALL: Final = 0.75  # width of an interval's letters
GAP: Final = 1.8  # between two columns, in letters
# (letters of the widest lines of all columns together, the size that puts them into a text width of 345 pt)
SIZES: Final = ((76, r"\small"), (84, r"\footnotesize"), (88, r"\scriptsize"))


@export("leaderboard.tex", media="application/x-tex", label="LaTeX", order=40)
def latex_text(board: Board) -> str:
    """Return leaderboard.tex: a booktabs table of the main columns, no wider than the text, for a paper."""
    columns = short_columns(board)
    heads = [["Rank"], ["Defense"], *([*wrap(c.heading, WORDS), *c.detail] for c in columns)]
    body: list[list[float]] = []
    before: Row | None = None
    lines: list[str] = []
    for row in board.rows:
        if before is not None and row.standing != before.standing:
            lines.append(r"\midrule")
        before = row
        cells = [short_cell(board, row, c.column) for c in columns]
        name = f"{row.defense} ({row.incomplete})" if row.incomplete else row.defense
        body.append([len(place(row)), len(name), *map(_width, cells)])
        lines.append(" & ".join([_dashes(place(row)), latex(name), *map(_cell, cells)]) + r" \\")
    size, fits = _size(heads, body)
    table = [
        rf"\begin{{tabular}}{{@{{}}rl{''.join(_alignment(c) for c in columns)}@{{}}}}",
        r"\toprule",
        *_heads(heads),
        r"\midrule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if not fits:
        table = [r"\resizebox{\textwidth}{!}{%", *table[:-1], table[-1] + "}"]
    return "\n".join(
        [
            rf"% Needs \usepackage{{booktabs}}{'' if fits else ' and graphicx'}.",
            r"\begin{table}[t]",
            r"\centering",
            size,
            r"\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{_caption(board, columns)}}}",
            rf"\label{{tab:{_label(board)}}}",
            *table,
            r"\end{table}",
            "",
        ]
    )


def _heads(heads: list[list[str]]) -> list[str]:
    """Return the lines of the head, flush at the bottom: words, then levels and units, then images."""
    depth = max(map(len, heads))
    padded = [[""] * (depth - len(lines)) + lines for lines in heads]
    rows = [[latex(lines[k]) for lines in padded] for k in range(depth)]
    return [" & ".join(row) + r" \\" for row in rows]


def _width(cell: ShortCell) -> float:
    """Return how wide a cell is, in letters."""
    more = len(cell.spread) + 2 if cell.spread else SMALL * len(cell.interval)
    return len(cell.text) + cell.tied + (more + 1 if more else 0)


def _size(heads: list[list[str]], body: list[list[float]]) -> tuple[str, bool]:
    """Return the size of the letters in which the table is no wider than the text, and whether there is one."""
    widths = (max([*map(len, heads[k]), *(line[k] for line in body)]) for k in range(len(heads)))
    wide = sum(widths) + GAP * len(heads)
    return next(((size, True) for most, size in SIZES if wide <= most), (r"\footnotesize", False))


def _caption(board: Board, columns: list[ShortColumn]) -> str:
    suite, data = latex(board.plan.suite.name), latex(board.plan.data.name)
    shown = [short_cell(board, row, c.column) for row in board.rows for c in columns]
    said = [f"Suite {suite} on {data}"]
    if board.ranking:
        said[0] += f", ranked by {latex(board.ranking)}; a range of places is what paired tests leave open"
    if any(cell.best for cell in shown):
        said.append(r"Bold: best of the ranked")
    if any(cell.tied for cell in shown):
        said.append(r"$^\dagger$: not told apart from the best (95\,\%, Holm over all pairs)")
    if any(cell.interval and not cell.spread for cell in shown):
        said.append(r"Brackets: 95\,\% interval over images")
    if any(cell.spread for cell in shown):
        said.append(r"Means over seeds, $\pm$ sample sd")
    if any(row.is_upper_bound for row in board.rows):
        said.append("Trust C: robust accuracies are upper bounds only")
    return ". ".join(said) + "."


def _label(board: Board) -> str:
    """Return the label of the table: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", f"{board.plan.suite.name} {board.plan.data.name}".lower()).strip("-")


def _alignment(column: ShortColumn) -> str:
    return "l" if column.column.form == "text" else "r"


def _cell(cell: ShortCell) -> str:
    """Return a number with its spread, or its interval in small letters."""
    text = _dashes(latex(cell.text))
    text = rf"\textbf{{{text}}}" if cell.best else text
    if cell.tied:
        text += r"$^\dagger$"
    if cell.spread:
        return text + rf" $\pm$ {_dashes(latex(cell.spread))}"
    return text + (rf" {{\scriptsize {latex(cell.interval)}}}" if cell.interval else "")


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\u00a0": "~",
    "ℓ": r"$\ell$",
    "₂": "$_2$",
    "∞": r"$_\infty$",
    "ε": r"$\varepsilon$",
    "×": r"$\times$",
    "−": "$-$",
}


def latex(text: str) -> str:
    """Return a text that LaTeX shows as it is.

    Args:
        text: any; control characters are left out.
    """
    return "".join(_LATEX.get(c, c) for c in one_line(text))


def _dashes(text: str) -> str:
    return text.replace(formatting.MISSING, "--")
