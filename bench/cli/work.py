"""The commands `work` and `collect`: orders of a shared folder are computed, and their replies stored."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options, run
from bench.cli.terminal import print_line
from bench.core.errors import UsageError

commands = typer.Typer()


@commands.command()
def work(
    folder: Annotated[Path, typer.Argument(metavar="PARTS", help="Folder of orders and replies.")],
    share: Annotated[
        str, typer.Option(metavar="I/N", help="The I-th of N equal shares, counted from 0: one task of a job array.")
    ] = "0/1",
) -> None:
    """Compute the orders of a folder that have no reply; needs no store. Orders run as code."""
    from bench.running.remote import parts

    which, of = options.parse_share("--share", share)
    if not folder.is_dir():
        raise UsageError(f"PARTS: expected a folder that `collect` has made, got {str(folder)!r}. Check the path.")
    shared = parts.Parts(folder)
    orders = [order for order in shared.left() if int(order, 16) % of == which]
    parts.work(folder, orders)
    print_line(f"computed: {len(orders)} orders, without a reply: {len(shared.left())}")


@commands.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def collect(
    context: typer.Context,
    parts: Annotated[
        Path | None, typer.Option("--parts", metavar="PARTS", help="Folder of orders (default: parts/ of --out).")
    ] = None,
) -> None:
    """Store the replies of a folder, write the orders that are next; OPTIONS as of `run`. 75: `work` has more to do."""
    folder = ("--slurm", f"parts={parts}") if parts else ()
    answer = typer.main.get_command(run.commands).main(
        [*context.args, "--engine", "parts", *folder], prog_name="bench collect", standalone_mode=False
    )
    raise typer.Exit(answer if isinstance(answer, int) else 0)
