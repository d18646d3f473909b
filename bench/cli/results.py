"""The command `results`: a result folder as a few small files that travel, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.terminal import complain, print_line, steps

commands = typer.Typer(
    no_args_is_help=True, help="Pack a result folder into a few small files; unpack, sign and verify them."
)


@commands.command()
def pack(
    out: Annotated[Path, typer.Option("--out", help="Result folder; it may be in use.")],
    to: Annotated[Path | None, typer.Option("--to", help="Where the pack goes (default: OUT-pack).")] = None,
    *,
    weights: Annotated[bool, typer.Option("--weights", help="Also the trained weights, split.")] = False,
    pictures: Annotated[bool, typer.Option("--pictures", help="Also all adversarial examples.")] = False,
    without_examples: Annotated[
        bool, typer.Option("--without-examples", help="No Parquet tables; `results unpack` makes them again.")
    ] = False,
    latest: Annotated[bool, typer.Option("--latest", help="Only the cells of the rows on the board.")] = False,
    defense: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Weights and pictures of this row alone, to save space (repeatable)."),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1", help="Weights and pictures of these training seeds alone.")
    ] = None,
) -> None:
    """Write board, manifest, examples and every finished chunk into at most 8 files of 15 MB."""
    from bench.packs import pack

    signature = pack.place_of(out, to) / pack.SIGNATURE
    signed = signature.is_file()
    with steps("pack"):
        done = pack.pack(
            out,
            to,
            weights="all" if weights else "none",
            pictures=pictures,
            examples=not without_examples,
            latest=latest,
            proved=pack.Rows(tuple(defense or ()), options.parse_seeds(seeds) or ()),
            keep_more=True,
        )
    for name, size in done.sizes.items():
        print_line(f"{size:>12,}  {name}")
    if signed:
        print_line(f"{signature} was of the old pack and is removed: sign the new one")
    print_line(f"{done.status.done} of {done.status.total} cells, weights of {done.weights} models, in {done.folder}")


@commands.command()
def unpack(
    folder: Annotated[Path, typer.Argument(help="Folder with a pack.")],
    out: Annotated[Path, typer.Option("--out", help="Result folder to make.")],
) -> None:
    """Check a pack's files and make a result folder of it; `run` and `report` go on there."""
    from bench.packs import unpack

    with steps("unpack"):
        done = unpack.unpack(folder, out)
    without = f" ({done.missing} models without)" if done.missing else ""
    print_line(f"{done.status.done} of {done.status.total} cells, weights of {done.weights} models{without}")
    print_line(out / "leaderboard.html")


@commands.command()
def sign(
    folder: Annotated[Path, typer.Argument(help="Folder with a pack.")],
    key: Annotated[Path, typer.Option("--key", help="Private key on an elliptic curve, PEM.")],
) -> None:
    """Sign every file of a pack with a key of your own; needs the extra `sign`, no network."""
    from bench.packs import signing

    print_line(signing.sign(folder, key))


@commands.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Folder with a pack.")],
    key: Annotated[Path, typer.Option("--key", help="The signer's public key, PEM.")],
) -> None:
    """Check that a pack is what the owner of a key has signed; `python -m bench verify` checks what it says."""
    from bench.packs import signing

    signing.verify_signature(folder, key)
    print_line(f"verified: every file of {folder} is as the owner of {key.name} signed it")


@commands.command()
def attackbench(
    out: options.Folder = options.DEFAULT_FOLDER,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Where the files go (default: OUT-attackbench).")
    ] = None,
    data: options.Data = None,
) -> None:
    """Write what minimal-norm attacks found as results of AttackBench, each image named by its SHA-512."""
    from bench.running.attackbench import write_attackbench

    done = write_attackbench(out, to or out.with_name(f"{out.name}-attackbench"), data)
    for reason in done.left_out:
        complain(f"left out: {reason}")
    for path in done.written:
        print_line(path)
