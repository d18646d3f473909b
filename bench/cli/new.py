"""The command `new`: a file to start from, for a defense, an attack, an evaluation or a suite of one's own."""

from __future__ import annotations

import keyword
import shlex
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Annotated, Final

import typer

from bench.cli.terminal import print_line
from bench.core import files, registry
from bench.core.errors import UsageError, did_you_mean
from bench.core.records import Registered

commands = typer.Typer()

KINDS: Final = ("defense", "attack", "evaluation", "suite")
_PLACEHOLDER: Final = "NAME"
_LONGEST: Final = 40  # letters of a name, which also stands in columns and file names


@commands.command()
def new(
    kind: Annotated[str, typer.Argument(help="defense, attack, evaluation or suite.")],
    name: Annotated[str, typer.Argument(help="Its name: letters, digits and _.")],
    to: Annotated[Path, typer.Option("--to", help="Folder to write into.")] = Path(),
) -> None:
    """Write a file that runs as it is and explains its parts; then say which two commands to run next."""
    if kind not in KINDS:
        raise UsageError(f"new: expected {', '.join(KINDS)}, got {kind!r}. {did_you_mean(kind, KINDS)}")
    _check_name(kind, name)
    path = to / f"{name}.{'toml' if kind == 'suite' else 'py'}"
    if path.exists():
        raise UsageError(f"new: expected a file that is not there yet, got {str(path)!r}. Choose another name.")
    content = template(kind).replace(_PLACEHOLDER, name)
    files.write_bytes(path, content.encode())
    print_line(f"written: {path}. Open it: each part says what it is. Next:")
    for command in _commands_in(content):
        print_line(f"  {command.replace(f' {path.name}', f' {shlex.quote(str(path))}')}")


def template(kind: str) -> str:
    """Return the file of a kind, with NAME where its name goes."""
    return (resources.files("bench") / "templates" / f"{kind}.template").read_text(encoding="utf-8")


def _commands_in(content: str) -> list[str]:
    """Return the two commands that a file of ours names in its head."""
    lines = [line.partition("python -m bench ") for line in content.splitlines()]
    return [found + rest for head, found, rest in lines if found and head.rstrip().endswith(":")][:2]


def _check_name(kind: str, name: str) -> None:
    """Refuse a name that cannot be a function's, or that is taken.

    Raises:
        UsageError: it is one of these.
    """
    if not (name.isascii() and name.isidentifier()) or keyword.iskeyword(name) or len(name) > _LONGEST:
        raise UsageError(
            f"new: expected up to {_LONGEST} letters, digits and _, not beginning with a digit, and no word of "
            f"Python's, got {name!r}. Write my_{kind}."
        )
    if name == _PLACEHOLDER or name.startswith("_"):
        raise UsageError(f"new: expected a name of your own, got {name!r}. Write my_{kind}.")
    if kind == "suite":
        from bench.config import suite_file

        taken = {str(suite["name"]) for suite in suite_file.suites()}
    else:
        kinds: dict[str, Iterable[Registered]] = {
            "defense": registry.defenses,
            "attack": registry.attacks,
            "evaluation": registry.evaluations,
        }
        taken = {entry.name for entry in kinds[kind]}
    if name in taken:
        raise UsageError(f"new: expected a new name, got {name!r}, which bench has. Choose another.")
