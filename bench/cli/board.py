"""The commands on a result folder's board: `report` rebuilds it, `compare` compares two of its defenses."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.options import DEFAULT_FOLDER, Folder
from bench.cli.terminal import console, print_board, print_line, steps

commands = typer.Typer()


@commands.command()
def report(
    out: Folder = DEFAULT_FOLDER,
    to: Annotated[Path | None, typer.Option("--to", help="Folder to write into (default: the result folder).")] = None,
    defense: Annotated[list[str] | None, typer.Option("--defense", help="Show only this row (repeatable).")] = None,
    only: options.Only = False,
    columns: Annotated[
        str | None, typer.Option("--columns", help="Columns of LaTeX and Markdown, named as in leaderboard.csv: a,b,c.")
    ] = None,
    figures: Annotated[
        bool, typer.Option("--figures", help="Write figures/ too: every drawing as PDF, SVG and PNG (seconds).")
    ] = False,
) -> None:
    """Rebuild the leaderboard from the store; needs no torch."""
    from bench.reports import write as write_reports

    named = tuple(name.strip() for name in (columns or "").split(",") if name.strip())
    with steps("report"):
        board = write_reports(out, to=to, defenses=tuple(defense or ()), only=only, columns=named, figures=figures)
    print_board(board, to or out)


@commands.command()
def compare(
    a: Annotated[str, typer.Argument(help="A defense of --out, or a result folder: the old one.")],
    b: Annotated[str, typer.Argument(help="Likewise: the new one.")],
    out: Folder = DEFAULT_FOLDER,
    fail_on_regression: Annotated[bool, typer.Option("--fail-on-regression", help="Exit 1 if B is worse.")] = False,
) -> None:
    """Compare two defenses, or two result folders, on the same images: difference, interval, p, verdict."""
    from bench.reports.board.compare import compare as compared
    from bench.reports.exports.terminal import comparison_table

    found = compared(out, a, b)
    console().print(comparison_table(found))
    for line in found.skipped:
        print_line(f"not compared: {line}")
    for c in found.regressions:
        print_line(f"regression: {' '.join(filter(None, (c.defense, c.column)))} {c.a_value:.4f} → {c.b_value:.4f}")
    raise typer.Exit(1 if fail_on_regression and found.regressions else 0)
