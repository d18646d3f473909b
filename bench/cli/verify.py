"""The command `verify`: a result folder or a pack, computed again from its weights and adversarial examples."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.terminal import complain, print_line
from bench.core.errors import IntegrityError

commands = typer.Typer()

LISTED = 50  # findings that are printed


@commands.command()
def verify(
    out: Annotated[Path, typer.Option("--out", help="Result folder, or a pack of one.")] = options.DEFAULT_FOLDER,
    defense: options.Defenses = None,
    data: options.Data = None,
    include: options.Included = None,
) -> None:
    """Score the saved adversarial examples against the saved weights again; check every hash, link and number."""
    from bench.running.verification.verify import VerifyOptions
    from bench.running.verification.verify import verify as check

    found = check(
        VerifyOptions(
            out=out,
            defenses=tuple(defense or ()),
            data_dir=data,
            included=tuple(str(p) for p in include or ()),
        )
    )
    for note in found.notes:
        complain(f"note: {note}")
    if found.left_out:
        print_line(f"{found.left_out} adversarial examples did not travel: pack with --pictures to verify them too")
    if found.close:
        print_line(
            f"{found.close} decisions are within rounding on this machine: counted neither as held nor as failed"
        )
    for finding in found.findings[1:LISTED]:
        complain(str(finding))
    print_line(
        f"verified: {found.examples} adversarial examples against {found.models} models, {found.cells} cells; "
        f"failed: {len(found.findings)}"
    )
    if found.findings:
        raise IntegrityError(f"{str(found.findings[0]).rstrip('.')}. Do not trust this row; ask for the pack again.")
