"""The command `verify`: a result folder or a pack, computed again from its weights and adversarial examples."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from bench.cli import options
from bench.cli.terminal import complain, print_line
from bench.core.errors import IntegrityError

if TYPE_CHECKING:
    from bench.running.verification.findings import Verification

commands = typer.Typer()

LISTED = 50  # findings that are printed


@commands.command()
def verify(
    out: options.FolderOrPack = options.DEFAULT_FOLDER,
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
    if found.stayed:
        models = found.models + found.stayed
        print_line(
            f"the weights of {found.stayed} of {models} models did not travel: what is said of them is as stored, and "
            "none of it is proved; --defense NAME asks for a row"
        )
    if found.left_out:
        print_line(f"{found.left_out} adversarial examples did not travel: pack with --pictures to verify them too")
    if found.close:
        print_line(
            f"{found.close} decisions are within rounding on this machine: counted neither as held nor as failed"
        )
    for line in _proofs(found):
        print_line(line)
    for finding in found.findings[1:LISTED]:
        complain(str(finding))
    print_line(
        f"verified: {found.examples} adversarial examples against {found.models} models, {found.cells} cells; "
        f"failed: {len(found.findings)}"
    )
    if found.findings:
        from bench.packs.unpack import is_pack

        what = "ask for the pack again" if is_pack(out) else "python -m bench store check names what can be mended"
        raise IntegrityError(f"{str(found.findings[0]).rstrip('.')}. Do not trust this row; {what}.")


def _proofs(found: Verification) -> Iterator[str]:
    """Yield in words how many flags "broken" a stored adversarial example proves, and how many none does."""
    missing = {name: count for name, count in found.unproved.items() if count}
    yield (
        f"counted broken under attack: {found.proved + sum(missing.values())} images; proved by a stored adversarial "
        f"example: {found.proved}, not proved: {sum(missing.values())}"
    )
    if missing:
        yield f"not proved: {', '.join(f'{name} {count}' for name, count in missing.items())}"
