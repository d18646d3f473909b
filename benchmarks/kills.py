"""Kill a run many times at random instants, with mixed signals, and compare it with an uninterrupted one.

    python -m benchmarks.kills                                   # digits, 50 kills: about half an hour on two cores
    python -m benchmarks.kills --small                           # the same eight defenses and evaluations, but smaller
    python -m benchmarks.kills --kills 10 -- --suite digits --epochs 2 --limit 20 --evaluation pgd_l2

What follows `--` are options of `run`. Of five kills one comes early: within the first seconds, in the start or in the
resume of the one before. The others come by what the process has done, however busy the machine is: once it has stored
a random number of epochs and chunks, at a random instant of the work on the next one. So many are drawn that the kills
are spread over the whole run. After each kill everything that was stored before must be stored still. A run that has
ended before enough kills is begun again in another folder; each one that ends is compared.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pandas as pd

from bench.core.errors import BenchError
from bench.store.store import Store

ROOT: Final = Path(__file__).resolve().parent.parent
SMALL: Final = ("--suite", "digits", "--seeds", "0", "--epochs", "3", "--train-limit", "300", "--limit", "24")
SIGNALS: Final = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
MOVES: Final = ("seconds", "cost")  # columns that hold times
PATIENCE: Final = 600.0  # seconds for a process to end after SIGTERM or Ctrl-C
EARLY: Final = 5  # every so many kills one comes within the first seconds
POLL: Final = 0.05  # seconds between two looks at the store
PIECES: Final = "SELECT (SELECT COUNT(*) FROM epochs) + (SELECT COUNT(*) FROM chunks)"

Stored = frozenset[tuple[str, str]]  # what the store has acknowledged: kind, and what it is


@dataclass(frozen=True)
class Instant:
    """When a process is killed.

    Attributes:
        pieces: epochs and chunks that it has stored by then; 0: it is killed by the clock.
        share: of the time that the last of them took, which passes after it.
        seconds: after its start, where it is killed by the clock.
    """

    pieces: int = 0
    share: float = 0.0
    seconds: float = 0.0


@dataclass
class Outcome:
    """What the kills came to.

    Attributes:
        kills: signals sent to a living process, by name.
        idle: of these kills, those before which the process had stored nothing new: in its start or resume.
        epochs: of these kills, those before which it had stored new epochs.
        chunks: of these kills, those before which it had stored new chunks.
        ended: runs that were killed, went on, and ended.
        lost: what was stored before a kill and not after it.
        differing: columns in which a run that was killed differs from the uninterrupted one.
    """

    kills: dict[str, int] = field(default_factory=dict)
    idle: int = 0
    epochs: int = 0
    chunks: int = 0
    ended: int = 0
    lost: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        """Whether nothing was lost and nothing differs."""
        return not self.lost and not self.differing

    def compare(self, before: Stored, after: Stored) -> None:
        """Count a kill by what is stored after it, and note what was lost.

        Args:
            before: what was stored when the killed process started.
            after: what is stored once it has ended.
        """
        new = {kind for kind, _ in after - before}
        self.idle += not new
        self.epochs += "epoch" in new
        self.chunks += "chunk" in new
        self.lost += sorted(f"after kill {sum(self.kills.values())}: {kind} {name}" for kind, name in before - after)


def kill_often(options: Sequence[str], folder: Path, *, kills: int, seed: int = 0) -> Outcome:
    """Kill runs of a command until there were enough kills, let the last one end, and compare.

    Args:
        options: of `run`, without `--out`.
        folder: where the results are made: `whole`, and `killed-0`, `killed-1`, ….
        kills: how many.
        seed: of the instants and signals.

    Returns:
        What came of it.

    Raises:
        RuntimeError: a run that nobody killed failed, or one did not end after a signal.
    """
    whole, outcome, draw = folder / "whole", Outcome(), random.Random(seed)
    finish(options, whole)
    quick = finish(options, whole)  # what a start takes that finds everything stored
    pieces = max(1, _pieces(whole) // kills)
    for number in itertools.count():
        if sum(outcome.kills.values()) == kills:
            break
        out = folder / f"killed-{outcome.ended}"
        if number % EARLY == EARLY - 1:
            instant = Instant(seconds=draw.uniform(0, quick))
        else:
            instant = Instant(pieces=draw.randint(1, 2 * pieces - 1), share=draw.random())
        before = stored(out)
        if _killed(options, out, draw.choice(SIGNALS), instant, outcome):
            outcome.compare(before, after := stored(out))
            print(f"  {sum(outcome.kills.values())} kills, {len(after)} stored", file=sys.stderr, flush=True)
        else:
            outcome.differing += differences(whole, out)
            outcome.ended += 1
    out = folder / f"killed-{outcome.ended}"
    finish(options, out)
    outcome.differing += differences(whole, out)
    outcome.ended += 1
    return outcome


def _killed(options: Sequence[str], out: Path, number: signal.Signals, instant: Instant, outcome: Outcome) -> bool:
    """Start a run and send it a signal at an instant; tell whether it came before the end."""
    process = _start(options, out)
    _await(process, out, instant)
    if process.poll() is not None:
        if process.returncode != 0:
            raise RuntimeError(f"a run that nobody killed ended with {process.returncode}")
        return False
    process.send_signal(number)
    outcome.kills[number.name] = outcome.kills.get(number.name, 0) + 1
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise RuntimeError(f"the run did not end within {PATIENCE:g} s of {number.name}") from None
    return True


def _await(process: subprocess.Popen[bytes], out: Path, instant: Instant) -> None:
    """Wait until an instant of a process, or its end."""
    had, pause, seen = _pieces(out), instant.seconds, 0
    last = time.monotonic()
    while seen < instant.pieces and process.poll() is None:
        time.sleep(POLL)
        if (now := _pieces(out) - had) > seen:
            pause, last, seen = instant.share * (time.monotonic() - last), time.monotonic(), now
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(pause)


def _pieces(out: Path) -> int:
    """Return how many epochs and chunks a folder's store holds; 0 while there is none."""
    address = f"{(out / 'bench.db').resolve().as_uri()}?mode=ro"
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(address, uri=True, timeout=PATIENCE)) as db,
    ):
        return int(db.execute(PIECES).fetchone()[0])
    return 0


def _start(options: Sequence[str], out: Path, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "bench", "run", *options, "--out", str(out), "--quiet"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, env=environment)


def finish(options: Sequence[str], out: Path) -> float:
    """Let a run go on to its end.

    Returns:
        The seconds that it took.

    Raises:
        RuntimeError: it ended with another exit code than 0.
    """
    started = time.monotonic()
    process = _start(options, out, subprocess.PIPE)
    _, said = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"a run that nobody killed ended with {process.returncode}: {said.decode()[-1000:]}")
    return time.monotonic() - started


def stored(out: Path) -> Stored:
    """Return what the store of a folder has acknowledged: epochs, chunks and finished cells."""
    if not (out / "bench.db").is_file():
        return frozenset()
    found: set[tuple[str, str]] = set()
    try:
        with Store.open(out, create=True) as store:
            for kind in ("train", "evaluation"):
                for cell in store.cells(kind):
                    name = str(cell.spec["name"])
                    found |= {("finished", name)} if cell.status == "done" else set()
                    found |= {("chunk", f"{k} of {name}") for k in store.chunk_info(cell.id)}
                    found |= {("epoch", f"{log['epoch']} of {name}") for log in store.log(cell.id)}
    except BenchError as error:
        found.add(("unreadable", str(error)))
    return frozenset(found)


def differences(whole: Path, killed: Path) -> list[str]:
    """Return the columns of leaderboard and per-example table in which two folders differ; times are left out."""
    found = []
    boards = [pd.read_csv(out / "leaderboard.csv").set_index("defense").sort_index() for out in (whole, killed)]
    keys = ["defense", "seed", "index"]
    tables = [pd.read_parquet(out / "examples.parquet").set_index(keys).sort_index() for out in (whole, killed)]
    for file, (a, b) in (("leaderboard.csv", boards), ("examples.parquet", tables)):
        if not a.index.equals(b.index):
            found.append(f"{killed.name}: {file}: rows")
            continue
        for column in a.columns.union(b.columns):
            if any(word in column for word in MOVES):
                continue
            if column not in a or column not in b or not a[column].equals(b[column]):
                found.append(f"{killed.name}: {file}: {column}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it from the command line; 0 if everything holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help=f"run {' '.join(SMALL)}")
    parser.add_argument("options", nargs="*", help="of `run`, behind `--` (default: --suite digits)")
    chosen = parser.parse_args(arguments)
    if chosen.small and chosen.options:
        parser.error("--small: expected no options of `run` beside it")
    options = SMALL if chosen.small else chosen.options or ("--suite", "digits")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        outcome = kill_often(options, Path(folder), kills=chosen.kills, seed=chosen.seed)
    sent = ", ".join(f"{count} {name}" for name, count in sorted(outcome.kills.items()))
    seconds = time.monotonic() - started
    print(f"python -m bench run {' '.join(options)}")
    print(
        f"{sum(outcome.kills.values())} kills ({sent}) in {seconds:.0f} s: {outcome.epochs} after new epochs, "
        f"{outcome.chunks} after new chunks, {outcome.idle} before anything new was stored; {outcome.ended} runs ended"
    )
    for line in (*outcome.lost, *outcome.differing):
        print(line)
    print("nothing was lost, the boards are the same" if outcome.holds else "it does not hold")
    return 0 if outcome.holds else 1


if __name__ == "__main__":
    sys.exit(main())
