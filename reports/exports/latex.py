"""leaderboard.tex."""

from __future__ import annotations

from bench.core.stats.seeds import describe_seeds
from bench.core.text import one_line
from bench.reports import formatting
from bench.reports.board.columns import BoardColumn
from bench.reports.board.model import Board, Cell, Row
from bench.reports.exports.registry import export


@export("leaderboard.tex", media="application/x-tex", label="LaTeX", order=40)
def latex_text(board: Board) -> str:
    """Return leaderboard.tex: a booktabs table of the measured columns, fractions in per cent, for a paper."""
    chosen = [c for c in board.columns if c.evaluation and c.split == "test"]
    graded = any(row.trust is not None for row in board.rows)
    heads = ["Rank", "Defense", *(_heading(board, c) for c in chosen), r"Operations ($\times$)", r"Time ($\times$)"]
    heads += ["Trust"] if graded else []
    body: list[str] = []
    before: Row | None = None
    for row in board.rows:
        if before is not None and row.standing != before.standing:
            body.append(r"\midrule")
        before = row
        costs = ["--" if c is None else formatting.number(c) for c in (row.train_flops, row.train_cost)]
        numbers = [_latex_number(row.cells.get(c.name), c) for c in chosen]
        name = f"{row.defense} ({row.incomplete})" if row.incomplete else row.defense
        grade = [row.trust.name if row.trust is not None else "--"] if graded else []
        body.append(" & ".join([_latex_rank(row), latex(name), *numbers, *costs, *grade]) + r" \\")
    suite, data = latex(board.plan.suite.name), latex(board.plan.data.name)
    ranked = f", ranked by {latex(board.ranking)}; ranks are 95\\,\\% ranges" if board.ranking else ""
    caption = f"Suite {suite} on {data}{ranked}. Fractions in \\%. Means over seeds, $\\pm$ sample sd from 3 seeds."
    if any(row.is_upper_bound for row in board.rows):
        caption += " Trust C: robust accuracies are upper bounds only."
    return "\n".join(
        [
            r"% Needs \usepackage{booktabs}.",
            r"\begin{table}",
            rf"\caption{{{caption}}}",
            rf"\begin{{tabular}}{{rl{'r' * (len(chosen) + 2)}{'l' * graded}}}",
            r"\toprule",
            " & ".join(heads) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _heading(board: Board, column: BoardColumn) -> str:
    images = board.images_note(column)
    return latex(formatting.label(column.name)) + (f" ($n = {column.images}$)" if images else "")


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
    "ℓ": r"$\ell$",
    "₂": "$_2$",
    "∞": r"$_\infty$",
}


def latex(text: str) -> str:
    """Return a text that LaTeX shows as it is.

    Args:
        text: any; control characters are left out.
    """
    return "".join(_LATEX.get(c, c) for c in one_line(text))


def _latex_rank(row: Row) -> str:
    return "--" if row.rank is None else formatting.rank_range(row.rank_low, row.rank_high).replace("–", "--")


def _latex_number(cell: Cell | None, column: BoardColumn) -> str:
    if cell is None or cell.value is None:
        return "--"
    sd = describe_seeds(list(cell.by_seed.values())).sd
    fraction = column.facts.aggregate == "fraction"
    show = (lambda v: formatting.percent(v, cell.n)) if fraction else formatting.number
    text = show(cell.value) + ("" if sd is None else rf" $\pm$ {show(sd)}")
    return text.replace("−", "$-$")
