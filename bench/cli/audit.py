"""The command `audit`: a risk-limiting audit of a board's robust accuracies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli import options
from bench.cli.terminal import complain, print_line

if TYPE_CHECKING:
    from bench.store.audit_record import AuditRecord

commands = typer.Typer()

SHOWN_THRESHOLDS = 10

_EXIT_CODES = {"confirmed": 0, "refuted": 3, "undecided": 75}


@commands.command()
def audit(  # noqa: PLR0917 - the command's options
    out: options.FolderOrPack = options.DEFAULT_FOLDER,
    margin: Annotated[str, typer.Option(help="Share of the images counted robust that may fall.")] = "0.01",
    risk: Annotated[str, typer.Option(help="Largest probability of confirming a false claim.")] = "0.05",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Public seed of the draws (default: drawn once the claim is frozen).")
    ] = None,
    defense: options.Defenses = None,
    attack: Annotated[
        str | None, typer.Option(help="An attack, or a library that offers the ranking one, e.g. pyautoattack.")
    ] = None,
    data: options.Data = None,
    device: options.Device = "auto",
    max_images: Annotated[int | None, typer.Option(min=1, help="Stop after so many images.")] = None,
    time_limit: options.TimeLimit = None,
    include: options.Included = None,
) -> None:
    """Attack images counted robust again, drawn by a public seed, until few enough fall at the stated risk."""
    from bench.packs.opened import records_folder
    from bench.reports import write_again
    from bench.running.risk_audit import AuditOptions
    from bench.running.risk_audit import audit as carry_out
    from bench.store.audit_record import FILE_NAME
    from bench.trust.risk_audit import statement

    records = records_folder(out)
    before = _content(records / FILE_NAME)
    found, audits = carry_out(
        AuditOptions(
            out=out,
            margin=margin,
            risk=risk,
            seed=seed,
            defenses=tuple(defense or ()),
            attack=attack,
            data_dir=data,
            device=device,
            max_images=max_images,
            time_limit=options.parse_duration("--time-limit", time_limit),
            included=tuple(str(p) for p in include or ()),
        ),
        before=_print_claim,
        on_block=lambda record: complain(f"  {record.draws} attacked, {len(record.hits)} fell"),
    )
    _print_hits(found)
    if records != out:
        print_line(f"stored as {records / FILE_NAME}: beside an unpacked bench.db the page shows it")
    elif _content(records / FILE_NAME) != before:
        write_again(out)  # its rows have another badge
    if audits > 1:
        print_line(f"audit {audits} of this claim in {records / FILE_NAME}: the risks of all of them add up")
    print_line(statement(found))
    raise typer.Exit(_EXIT_CODES[found.outcome])


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _print_claim(record: AuditRecord, full_count: bool) -> None:
    """Print what is frozen and the decision rule, before the first attack."""
    claim, rule = record.claim, record.claim.rule
    thresholds = rule.thresholds(SHOWN_THRESHOLDS)
    more = " …" if rule.boundary > SHOWN_THRESHOLDS else ""
    print_line(f"audit of {rule.images} images counted robust by {claim.column} on {len(claim.models)} models")
    print_line(
        f"claim: fewer than {rule.boundary} of them (margin {claim.margin}) fall to the attack; risk {claim.risk}"
    )
    print_line(f"attack: {claim.attack_name} {claim.attack['arguments']}, seed {claim.attack['seed']}")
    print_line(f"frozen at {record.frozen_at} with SHA-256 {record.claim_sha256}")
    source = "drawn after that" if record.seed_source == "drawn" else "given by the user"
    print_line(f"public seed: {record.seed}, {source}")
    if full_count:
        print_line(f"a confirmation would need {thresholds[0]} images or more, so all are attacked")
    else:
        print_line(f"confirmed at the first draw t ≥ b[s] with s fallen: b = {' '.join(map(str, thresholds))}{more}")


def _print_hits(record: AuditRecord) -> None:
    """Print which images fell, and to what."""
    units = record.claim.units
    for hit in record.hits:
        place, image = units[hit.number]
        print_line(f"fell at draw {hit.draw}: {record.claim.models[place].run}, image {image}, {hit.cause}")
