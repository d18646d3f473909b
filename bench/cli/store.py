"""The commands `store check`, `store repair` and `store gc`: health and care of a result folder's store."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from bench.cli import options
from bench.cli.terminal import print_line
from bench.core.errors import IntegrityError

commands = typer.Typer(no_args_is_help=True, help="Check, repair or tidy up the store of a result folder.")


@commands.command()
def check(out: options.Folder = options.DEFAULT_FOLDER) -> None:
    """Compare every hash of store, weights and checkpoints, and every link; exit 3 if something does not hold."""
    from bench.store.database import Database
    from bench.store.health import file_problems, link_problems, record_problems, require_sound_file

    with contextlib.closing(Database.open(out, create=False)) as database:
        require_sound_file(database)
        found = [*record_problems(database), *link_problems(database)]
    found += file_problems(out)
    for problem in found:
        print_line(str(problem))
    if found:
        repair_first = any(problem.remedy == "repair" for problem in found)
        what = f"Run python -m bench store repair --out {out}, then the command" if repair_first else "Run the command"
        raise IntegrityError(
            f"{out}: expected a sound store, got {len(found)} problems. {what} that made it again: it computes anew "
            "what is missing."
        )
    print_line("sound")


@commands.command()
def repair(out: options.Folder = options.DEFAULT_FOLDER) -> None:
    """Keep what is intact and drop what is damaged, so that the next run computes that anew."""
    from bench.store.repair import repair as repaired

    done = repaired(out)
    for problem in done.dropped:
        print_line(f"dropped: {problem}")
    for table, count in done.lost.items():
        print_line(f"lost: at least {count} {table}")
    for problem in done.aside:
        print_line(f"set aside: {problem}")
    if done.kept is not None:
        print_line(f"the damaged file is now {done.kept}")
    if done.dropped or done.aside:
        print_line("the command that made the folder computes it anew: run it again")
    print_line(f"chunks kept: {done.chunks}, records dropped: {len(done.dropped)}")


@commands.command()
def gc(
    out: options.Folder = options.DEFAULT_FOLDER,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it; without this nothing is removed.")] = False,
) -> None:
    """List, and with --yes remove, the weights and results that no plan of the folder needs."""
    from bench.store.database import Database
    from bench.store.garbage import find_garbage, remove

    with contextlib.closing(Database.open(out, create=False)) as database:
        found = find_garbage(database)
        if yes:
            remove(database, found)
    for path in found.files:
        print_line(f"{'removed' if yes else 'would remove'} {path.relative_to(out)}")
    print_line(
        f"{'removed' if yes else 'would remove'}: {len(found.cells)} cells with {found.chunks} chunks, "
        f"{len(found.files)} files, {found.size / 1e6:.3g} MB"
    )
