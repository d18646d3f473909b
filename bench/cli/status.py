"""The command `status`: what of a result folder is done, running, left or failed."""

from __future__ import annotations

import typer

from bench.cli import options
from bench.cli.terminal import print_json, print_line

commands = typer.Typer()


@commands.command()
def status(out: options.Folder = options.DEFAULT_FOLDER, as_json: options.AsJson = False) -> None:
    """Say what the last command's cells have come to: done, running and by whom, left, failed and why."""
    from bench.store.folder_status import folder_status

    found = folder_status(out)
    if as_json:
        print_json(found.as_data())
        return
    counts, size = found.counts, found.size
    print_line(f"{found.suite} on {found.data}, planned {found.created} by {found.command}")
    for cell in found.cells:
        if cell.state == "done":
            continue
        part = f"{cell.images} of {cell.of} images" if cell.images else ""
        print_line(f"{cell.state:8} {cell.model + ': ' + cell.cell:44} {cell.by or cell.cause or part}".rstrip())
    if found.earlier:
        print_line(f"also on the board, from earlier commands: {', '.join(found.earlier)}")
    for aside in found.aside:
        print_line(f"not on the board: {aside.row}: {aside.reason}")
    print_line("  ".join(f"{kind} {bytes_ / 1e6:.3g} MB" for kind, bytes_ in size.items() if bytes_))
    print_line(
        f"cells: {counts['cells']}, done: {counts['done']}, running: {counts['running']}, left: {counts['left']}, "
        f"failed: {counts['failed']}"
    )
