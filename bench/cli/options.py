"""Options that several commands have, and how their values are parsed.

An alias has no default: a command that takes it says `device: options.Device = "auto"`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from bench.core.errors import UsageError


def complete_suite(incomplete: str) -> list[str]:
    """Return the shipped suites whose names begin so, for the shell's completion."""
    files = (resources.files("bench") / "suites").iterdir()
    return sorted(
        name for f in files if (name := f.name.removesuffix(".toml")) != f.name and name.startswith(incomplete)
    )


SuiteName = Annotated[
    str, typer.Option("--suite", help="Name of a suite, or a TOML file.", autocompletion=complete_suite)
]
Defenses = Annotated[
    list[str] | None,
    typer.Option("--defense", metavar="NAME", help="Only this defense (repeatable); NAME:key=value,… overrides."),
]
Evaluations = Annotated[
    list[str] | None, typer.Option("--evaluation", metavar="NAME", help="Only this evaluation (repeatable).")
]
Seeds = Annotated[str | None, typer.Option("--seeds", metavar="0,1", help="Training seeds, e.g. 0,1.")]
Data = Annotated[
    Path | None, typer.Option("--data", metavar="DIR", help="Folder in which data sets are looked for first.")
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Result folder (default: results/<suite>).")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:i.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="First N test images.")]
TrainLimit = Annotated[int | None, typer.Option("--train-limit", min=1, help="First N training images.")]
BatchSize = Annotated[str, typer.Option("--batch-size", help="Images per call in evaluations: a number, or auto.")]
TimeLimit = Annotated[str | None, typer.Option("--time-limit", help="Stop in time: 90s, 9m, 1.5h; run again to go on.")]
HangLimit = Annotated[
    str | None,
    typer.Option(
        "--hang-limit",
        help="End included code, plug-ins and models handed over after so long without a sign of life: 10m.",
    ),
]
AttackPeer = Annotated[str | None, typer.Option("--attack-peer", help="Also run the attacks by another library.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Exit 7 if another run holds the cells.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Included = Annotated[
    list[Path] | None,
    typer.Option("--include", metavar="FILE", help="Python file with your own entries (runs as code)."),
]
Only = Annotated[bool, typer.Option("--only", help="Show the last command's rows alone, not those of earlier ones.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and what is cached; do nothing.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Say nothing but the board.")]
Events = Annotated[bool, typer.Option("--json", help="Say what happens as one JSON object per line on stdout.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Folder = Annotated[Path, typer.Option("--out", metavar="DIR", help="Result folder.")]
FolderOrPack = Annotated[Path, typer.Option("--out", metavar="DIR", help="Result folder, or a pack of one.")]

DEFAULT_FOLDER = Path("results/digits")


def parse_seeds(text: str | None) -> tuple[int, ...] | None:
    """Return the seeds of `--seeds`, None if it was not given.

    Raises:
        UsageError: not different whole numbers from 0 up, separated by commas.
    """
    if text is None:
        return None
    try:
        seeds = tuple(int(s) for s in text.split(","))
    except ValueError:
        raise UsageError(
            f"--seeds: expected whole numbers such as 0,1, got {text!r}. Separate them by commas."
        ) from None
    if len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise UsageError(f"--seeds: expected different numbers from 0 up, got {text!r}. Name each seed once.")
    return seeds


def parse_batch_size(text: str) -> int | None:
    """Return the number of `--batch-size`, None for "auto".

    Raises:
        UsageError: neither "auto" nor a number from 1 up.
    """
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size: expected auto or a number from 1 up, got {text!r}. Write --batch-size auto.")
    return int(text)


def parse_duration(option: str, text: str | None) -> float | None:
    """Return the seconds of an option such as `--time-limit`, None if it was not given.

    Raises:
        UsageError: no duration such as 90s, 9m or 1.5h.
    """
    from bench.running import stopping

    if text is None:
        return None
    try:
        return stopping.parse_duration(text)
    except ValueError:
        unit = f" Say its unit: {text}s, {text}m or {text}h." if text.replace(".", "", 1).isdecimal() else ""
        raise UsageError(f"{option}: expected a duration such as 90s, 9m or 1.5h, got {text!r}.{unit}") from None


def parse_pairs(option: str, text: str | None) -> dict[str, str]:
    """Return the settings of an option such as `--slurm partition=gpu,time=2h`; none if it was not given.

    Raises:
        UsageError: a part is not NAME=VALUE.
    """
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if wrong := [part for part in parts if not all(part.partition("=")[::2])]:
        raise UsageError(f"{option}: expected NAME=VALUE,NAME=VALUE, got {wrong[0]!r}.")
    return {name.strip(): value.strip() for name, _, value in (part.partition("=") for part in parts)}


def parse_share(option: str, text: str) -> tuple[int, int]:
    """Return which share of how many, of an option such as `--share 0/8`.

    Raises:
        UsageError: not two whole numbers, the first one below the second.
    """
    which, _, of = text.partition("/")
    if not (which.isdecimal() and of.isdecimal() and int(which) < int(of)):
        raise UsageError(f"{option}: expected I/N with 0 ≤ I < N, got {text!r}. Write 0/8 for the first of eight.")
    return int(which), int(of)


def parse_resources(option: str, text: str | None) -> dict[str, float]:
    """Return what a task takes, of an option such as `--per-task cpus=1,gpus=0.5,memory=4G`, memory in bytes.

    Raises:
        UsageError: another name, or no positive number.
    """
    found, units = dict[str, float](), {"M": 2.0**20, "G": 2.0**30}
    for name, value in parse_pairs(option, text).items():
        unit = units.get(value[-1:], 1.0) if name == "memory" else 1.0
        number = value[:-1] if unit > 1 else value
        if name not in ("cpus", "gpus", "memory") or not number.replace(".", "", 1).isdecimal():
            raise UsageError(f"{option}: expected cpus, gpus or memory with a number ≥ 0, got {name}={value}.")
        found[name] = float(number) * unit
    return found
