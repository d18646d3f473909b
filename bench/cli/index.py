"""The command `index`: one page over several boards."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.terminal import print_line

commands = typer.Typer()


@commands.command()
def index(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Result folders, or folders that hold result folders.")
    ],
    to: Annotated[
        Path | None, typer.Option("--to", help="File to write (default: index.html beside the result folders).")
    ] = None,
) -> None:
    """Write one page with a line per board: data, threat, best row, images, date, link."""
    from bench.core import files
    from bench.reports.html.index_page import boards_of, index_html

    boards = boards_of(folders)
    target = to or Path(os.path.commonpath([board.resolve().parent for board in boards])) / "index.html"
    files.write_text(target, index_html(boards, target))
    print_line(target)
