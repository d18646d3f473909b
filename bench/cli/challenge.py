"""The command `challenge`: somebody's adversarial images against a row of the board."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import options
from bench.cli.terminal import complain, print_line

if TYPE_CHECKING:
    from bench.running.claims import Refusal

commands = typer.Typer()

LISTED = 50  # refused images that are named; of the rest the number


@commands.command()
def challenge(  # noqa: PLR0917 - the command's options
    file: Annotated[Path, typer.Argument(help="Images: .npz, .safetensors, or what torch.save wrote for AutoAttack.")],
    defense: Annotated[str, typer.Option("--defense", help="The row that they break.")],
    out: options.Folder = options.DEFAULT_FOLDER,
    seed: Annotated[
        int | None, typer.Option(help="Its model with this training seed (default: each is tried).")
    ] = None,
    norm: Annotated[str | None, typer.Option(help="l2 or linf (default: the suite's).")] = None,
    eps: Annotated[
        str | None, typer.Option(help="Radius of the ball, e.g. 0.5 or 8/255 (default: the suite's).")
    ] = None,
    credit: Annotated[str, typer.Option(help="Who found them.")] = "",
    method: Annotated[str, typer.Option(help="How, in a few words.")] = "",
    data: options.Data = None,
    include: options.Included = None,
) -> None:
    """Verify somebody's adversarial images, store those that hold, and lower `best_known` of the row."""
    from bench.core.arguments import real
    from bench.reports import write_again
    from bench.running.challenge import ChallengeOptions
    from bench.running.challenge import challenge as judge

    found = judge(
        ChallengeOptions(
            out=out,
            file=file,
            defense=defense,
            seed=seed,
            norm=norm,
            eps=None if eps is None else real("--eps", eps),
            credit=" ".join(credit.split()),
            method=" ".join(method.split()),
            data_dir=data,
            included=tuple(str(p) for p in include or ()),
        )
    )
    for note in found.notes:
        complain(note)
    _print_refused(found.refused)
    if found.unchanged:
        print_line(f"{found.unchanged} images equal a clean one: they claim nothing")
    if found.accepted:
        write_again(out)
        print_line(f"{found.lowered} of them were counted robust before; stored in {out / 'challenges'}")
    print_line(f"accepted: {found.accepted}, refused: {len(found.refused)}")
    raise typer.Exit(0 if found.accepted else 3)


def _print_refused(refused: tuple[Refusal, ...]) -> None:
    """Print index and reason of the refused images; of many, the first, and how many each reason has."""
    for one in refused[:LISTED]:
        place = "no test image" if one.index is None else f"image {one.index}"
        complain(f"refused: entry {one.position} ({place}): {one.reason}")
    if len(refused) > LISTED:
        kinds = Counter(one.reason.partition(":")[0] for one in refused[LISTED:])
        complain(f"refused: {len(refused) - LISTED} more ({', '.join(f'{n} × {kind}' for kind, n in kinds.items())})")
