"""How to run a board, or one of its rows, again: code, data and command, without a path of the machine it ran on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from bench.core.handed_over import PROVENANCE
from bench.reports import formatting
from bench.reports.board.model import Board, Row
from bench.reports.board.training_cost import seconds
from bench.store.plan_record import DataRecord, EnvironmentRecord, PlanRecord

# Options that say where and when, not what: whoever runs it again has their own.
ELSEWHERE = frozenset({"--out", "--engine", "--address", "--slurm", "--time-limit", "--hang-limit"})
SILENT = frozenset({"--quiet", "--no-wait", "--debug", "--only", "--json"})  # flags likewise, and what hides rows
ROWS = frozenset({"--defense", "--seeds"})  # which rows
FILES = frozenset({"--suite", "--include", "--model", "--weights"})  # options whose value may be a path
Option: TypeAlias = tuple[str, str | None]  # its name and its value; None: a flag


@dataclass(frozen=True)
class Again:
    """How to make a board again.

    Attributes:
        command: the command alone.
        steps: code, data and command, as a script with comments.
        took: how long it took, on what.
    """

    command: str
    steps: str
    took: str


def again(board: Board) -> Again:
    """Return how to make a board again: all its rows, whatever the last command alone has added.

    Args:
        board: it holds the commands, versions, data and rows.
    """
    command = board_command(board)
    given = [row_command(board, row) for row in board.rows if row.entry.provenance == PROVENANCE]
    steps = [*_code(board.plan.environment), *_data(board.plan.data), *_run(board.plan, command)]
    return Again(command, "\n".join(dict.fromkeys([*steps, *filter(None, given)])), _took(board))


def board_command(board: Board) -> str:
    """Return the command that makes every trained row of a board.

    Args:
        board: where one of its commands names rows, those of all commands are named.
    """
    rows = [row for row in board.rows if row.entry.provenance != PROVENANCE]
    commands = list(dict.fromkeys(_typed(board, row) for row in rows))
    if any(name in ROWS for command in commands for name, _ in _parsed(command)[1]):
        return _command(_options(board, rows[0]), [row.defense for row in rows], {s for row in rows for s in row.runs})
    return _command(_options(board, rows[0])) if rows else row_command(board, board.rows[0]) if board.rows else ""


def row_command(board: Board, row: Row) -> str:
    """Return the command that makes one row: the one that planned it, with its defense and seeds.

    Args:
        board: it holds the commands.
        row: of the board.
    """
    if row.entry.provenance == PROVENANCE:
        what, options = _parsed(_typed(board, row))
        return _command(options, what=what) if what == "evaluate" else ""
    return _command(_options(board, row), [row.defense], row.seeds)


def load_line(plan: PlanRecord, row: Row) -> str:
    """Return the line of Python that loads a row's trained network; "" where there is none.

    Args:
        plan: it names the suite, whose default folder the line reads.
        row: the defense.
    """
    if row.entry.provenance == PROVENANCE or not row.trainings:
        return ""
    seed, out = min(row.trainings), f"results/{plan.suite.name}"
    return f"bench.load_model({json.dumps(row.defense, ensure_ascii=False)}, seed={seed}, out={json.dumps(out)})"


def _typed(board: Board, row: Row) -> str:
    """Return the command that planned a row, as typed."""
    commands = {} if board.shown is None else board.shown.commands
    return next(
        (commands[row.defense, seed] for seed in row.runs if (row.defense, seed) in commands), board.plan.command
    )


def _command(
    options: Iterable[Option], defenses: Iterable[str] = (), seeds: Iterable[int] = (), what: str = "run"
) -> str:
    """Return a command of its options, naming some rows instead of those that it named; none: as it was typed."""
    rows, chosen = list(defenses), sorted(seeds)
    kept = [option for option in options if not rows or option[0] not in ROWS]
    kept += [("--defense", name) for name in rows]
    kept += [("--seeds", ",".join(map(str, chosen)))] if chosen else []
    return shlex.join(
        ["python", "-m", "bench", what, *(part for option in kept for part in option if part is not None)]
    )


def _options(board: Board, row: Row) -> list[Option]:
    """Return the options that say what the run of a row computes; its suite alone where no command was typed."""
    what, options = _parsed(_typed(board, row))
    return options if what == "run" else [("--suite", board.plan.suite.name)]


def _parsed(command: str) -> tuple[str, list[Option]]:
    """Return what a typed command does and its options; files lose their folders, options of one machine go."""
    try:
        parts = shlex.split(command)
    except ValueError:
        return "", []
    what = next((part for part in parts if part in ("run", "evaluate")), "")
    if not what:  # made in Python, or by a campaign
        return "", []
    parts, found = parts[parts.index(what) + 1 :], list[Option]()
    while parts:
        name, equals, value = parts.pop(0).partition("=")
        own: str | None = value if equals else None
        if own is None and parts and not parts[0].startswith("--"):
            own = parts.pop(0)
        if name in ELSEWHERE or name in SILENT:
            continue
        if own is not None:
            own = "DIR" if name == "--data" else own.rstrip("/").rpartition("/")[2] if name in FILES else own
        found.append((name, own))
    return what, found


def _code(environment: EnvironmentRecord) -> Iterator[str]:
    changed = ", with local changes that no commit holds" if environment.dirty else ""
    if environment.commit:
        yield f"# The code: bench {environment.bench}{changed}"
        yield f"git checkout {environment.commit}"
    else:
        yield f"# The code: bench {environment.bench}; its commit is not known"
    versions = {"torch": environment.torch} | environment.packages
    pinned = [f"{name}=={version.partition('+')[0]}" for name, version in versions.items() if version != "absent"]
    yield f"pip install -e . {shlex.join(pinned)}  # Python {environment.python}"


def _data(data: DataRecord) -> Iterator[str]:
    images = f"{data.train.n:,} training and {data.test.n:,} test images"
    yield f"# The data: {data.name} ({data.layout}), {images}"
    if not data.original:
        yield f"# It is not the original set: give the folder that holds it as --data DIR. {data.note}".rstrip()
    yield f"# Test images have the fingerprint {data.test.fingerprint[:16]}…, which the run's manifest repeats"


def _run(plan: PlanRecord, command: str) -> Iterator[str]:
    included = [f"{one.file} (SHA-256 {one.sha256[:12]}…)" for one in plan.environment.included]
    yield "# The run: what is stored is not computed again" + (f"; needs {', '.join(included)}" if included else "")
    yield command


def _took(board: Board) -> str:
    """Say what computing all cells took, on what: processes overlap, so it is no duration of a run."""
    runs = [run for row in board.rows for run in row.runs.values()]
    spent = sum(seconds(run.training) or 0.0 for run in runs)
    spent += sum(seconds(info) or 0.0 for run in runs for info in run.info.values())
    where = board.plan.environment
    device = where.device_name or where.device or "an unnamed device"
    kind = "CPU time" if where.device == "cpu" else "the device's own time"
    return f"{formatting.duration(spent)} of {kind}, all cells together, on {device}" if spent else f"on {device}"
