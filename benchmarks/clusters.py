"""Compare the board of a cluster of this machine with the local engine's: `python -m benchmarks.clusters ray`.

Both engines run the suite `digits` in new folders. The cluster has two workers, of which one is killed once half of the
cells are stored. The two files leaderboard.csv must be equal, times apart. Options of `bench run` narrow the suite:
`python -m benchmarks.clusters slurm --seeds 0 --limit 16 --epochs 2`.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import psutil

from bench.core.errors import BenchError
from bench.store.database import NAME
from bench.store.store import Store

ENGINES: Final = {
    "ray": ("--engine", "ray"),
    "slurm": ("--engine", "slurm", "--slurm", "cluster=local,jobs=2,time=30m"),
}
WORKERS: Final = {"ray": "ray::_compute_here", "slurm": "submitit.core._submit"}
TIMES: Final = ("seconds", "cpu", "wall", "per_second", "train_cost")  # columns that hold what a machine was busy with
POLL_SECONDS: Final = 0.5


def command(out: Path, options: Sequence[str]) -> list[str]:
    """Return the command of one engine."""
    return [sys.executable, "-m", "bench", "run", "--suite", "digits", "--out", str(out), "--quiet", *options]


def planned(options: Sequence[str], out: Path) -> int:
    """Return how many cells the suite has."""
    said = subprocess.run([*command(out, options), "--dry-run"], check=True, capture_output=True, text=True).stdout
    return int(said.strip().rpartition("cells: ")[2].partition(",")[0])


def stored(out: Path) -> int:
    """Return how many cells of a folder are stored."""
    if not (out / NAME).is_file():
        return 0
    with contextlib.suppress(BenchError), Store.open(out) as store:
        return sum(cell.status == "done" for kind in ("train", "evaluation") for cell in store.cells(kind))
    return 0


def workers(driver: int, name: str) -> Iterator[psutil.Process]:
    """Yield the processes that compute an order for a driver now."""
    for child in psutil.Process(driver).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if name in child.name() or name in " ".join(child.cmdline()):
                yield child


def run_with_a_kill(engine: str, out: Path, options: Sequence[str], half: int) -> int:
    """Run the suite by an engine and kill one of its workers when half of the cells are stored.

    Returns:
        The process that was killed.

    Raises:
        SystemExit: the command failed, or ended before a worker was killed.
    """
    killed = 0
    with subprocess.Popen(command(out, [*ENGINES[engine], *options])) as driver:
        while driver.poll() is None:
            if not killed and stored(out) >= half:
                for worker in workers(driver.pid, WORKERS[engine]):
                    worker.send_signal(signal.SIGKILL)
                    killed = worker.pid
                    break
            time.sleep(POLL_SECONDS)
    if driver.returncode or not killed:
        raise SystemExit(f"--engine {engine}: exit code {driver.returncode}, killed {killed or 'nobody'}")
    return killed


def board(out: Path) -> list[dict[str, str]]:
    """Return the rows of a board without what depends on how busy the machine was."""
    with (out / "leaderboard.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return [{k: v for k, v in row.items() if not any(word in k for word in TIMES)} for row in rows]


def main() -> None:
    """Run both engines, compare, and write what was found as JSON where a file is named.

    Raises:
        SystemExit: the boards differ.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0], allow_abbrev=False)
    parser.add_argument("engine", choices=sorted(ENGINES))
    parser.add_argument("--json", type=Path, help="file to write the result to")
    parser.add_argument("--local", type=Path, help="result folder of the local engine, made by an earlier call")
    arguments, options = parser.parse_known_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # a cluster of this machine has a worker per core
    with tempfile.TemporaryDirectory(prefix="clusters-") as scratch:
        alone, cluster = arguments.local or Path(scratch, "local"), Path(scratch, arguments.engine)
        subprocess.run(command(alone, options), check=True)
        cells = planned(options, cluster)
        run_with_a_kill(arguments.engine, cluster, options, cells // 2)
        found, expected = board(cluster), board(alone)
    equal = found == expected
    result = {"engine": arguments.engine, "options": options, "cells": cells, "rows": len(found), "equal": equal}
    print(json.dumps(result))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if not equal:
        different = [
            (mine["defense"], name, mine.get(name), theirs.get(name))
            for mine, theirs in zip(found, expected, strict=False)
            for name in mine
            if mine.get(name) != theirs.get(name)
        ]
        raise SystemExit(f"expected equal boards, got other values: {different[:10]}")


if __name__ == "__main__":
    main()
