"""The command `open`: show a board's page in the browser."""

from __future__ import annotations

import shlex
import webbrowser
from pathlib import Path

import typer

from bench.cli.options import DEFAULT_FOLDER, Folder
from bench.cli.terminal import print_line
from bench.core.errors import UsageError

PAGE = "leaderboard.html"
commands = typer.Typer()


@commands.command("open")
def open_page(out: Folder = DEFAULT_FOLDER) -> None:
    """Open the board's page in the browser, and print its path."""
    page = page_of(out)
    print_line(page)
    if not webbrowser.open(page.resolve().as_uri()):
        print_line("No browser was found here: open the file above in one.")


def page_of(folder: Path) -> Path:
    """Return the page of a result folder, or the folder's index over several.

    Args:
        folder: a result folder, or one with an index.

    Raises:
        UsageError: there is no page.
    """
    for name in (PAGE, "index.html"):
        if (folder / name).is_file():
            return folder / name
    command = f"{'report' if (folder / 'bench.db').is_file() else 'run'} --out {shlex.quote(str(folder))}"
    raise UsageError(
        f"--out: expected a folder with {PAGE}, got {str(folder)!r}. Run `python -m bench {command}` first."
    )
