"""Two commits of this project on one machine: the same command of each in turn, CPU time, ratio, and what moved.

Each commit is checked out into a folder of its own. Both run `python -m bench run` with the same options, taking turns,
each into an empty folder; the time is CPU time of the process and its children. Columns of leaderboard.csv that both
have are compared after the last turn.

    python -m benchmarks.compare 6e44786 HEAD                                     # the whole of digits: minutes a turn
    python -m benchmarks.compare HEAD~1 HEAD --blocks 5 -- --defense standard --seeds 0 --limit 32 --epochs 2
    python -m benchmarks.compare 6e44786 HEAD --keep DIR && python -m benchmarks.cell_costs --out DIR/6e44786430-0
    python -m benchmarks.compare HEAD~1 HEAD --blocks 5 --report results/digits   # `report` of one folder instead
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
MOVES: Final = ("seconds", "cost", "forwards", "backwards")  # columns that are meant to differ


@dataclass
class Side:
    """One commit.

    Attributes:
        commit: its full name.
        seconds: CPU time of each turn.
        rows: leaderboard.csv of the last one, by defense.
    """

    commit: str
    seconds: list[float] = field(default_factory=list)
    rows: dict[str, dict[str, str]] = field(default_factory=dict)

    def run(self, checkout: Path, out: Path, command: Sequence[str]) -> None:
        """Run the command once.

        Args:
            checkout: the commit's files.
            out: an empty folder for the board.
            command: of bench, with its options; what names the folder comes last.
        """
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is not compiled at every start
        words = [sys.executable, "-m", "bench", *command, str(out)]
        before = _children()
        subprocess.run(words, cwd=checkout, env=environment, check=True, stdout=subprocess.DEVNULL)
        self.seconds.append(_children() - before)
        with (out / "leaderboard.csv").open(newline="") as file:
            self.rows = {row["defense"]: row for row in csv.DictReader(file)}


def _children() -> float:
    """Return the CPU time of all ended children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def moved(a: Side, b: Side) -> list[str]:
    """Return a line for every number of the leaderboard that differs, among the columns and rows of both.

    Args:
        a: one commit.
        b: the other one.
    """
    lines = []
    for defense in a.rows.keys() & b.rows.keys():
        for name in a.rows[defense].keys() & b.rows[defense].keys():
            one, other = a.rows[defense][name], b.rows[defense][name]
            if one != other and not any(word in name for word in MOVES):
                lines.append(f"{defense} {name}: {one} -> {other}")
    return sorted(lines)


def compare(commits: Sequence[str], blocks: int, command: Sequence[str], keep: Path | None = None) -> tuple[Side, Side]:
    """Let two commits take turns.

    Args:
        commits: two names that git knows.
        blocks: turns of each.
        command: of bench, with its options; what names the folder comes last.
        keep: a folder in which every turn's result stays; None: none does.

    Returns:
        Both sides.
    """
    names = [_git("rev-parse", f"{commit}^{{commit}}") for commit in commits]
    sides = Side(names[0]), Side(names[1])
    with tempfile.TemporaryDirectory() as folder:
        checkouts = [Path(folder) / f"checkout{i}" for i in range(2)]
        for side, checkout in zip(sides, checkouts, strict=True):
            _git("clone", "--quiet", "--shared", "--no-checkout", str(ROOT), str(checkout))
            _git("-C", str(checkout), "checkout", "--quiet", "--detach", side.commit)
        for block in range(blocks):
            for i in (0, 1) if block % 2 else (1, 0):
                sides[i].run(checkouts[i], (keep or Path(folder)) / f"{sides[i].commit[:10]}-{block}", command)
                print(f"  {sides[i].commit[:10]}: {sides[i].seconds[-1]:.1f} CPU-seconds", file=sys.stderr, flush=True)
    return sides


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Parse the command line, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commits", nargs=2, help="the older and the newer one, as git knows them")
    parser.add_argument("--blocks", type=int, default=1, help="turns of each")
    parser.add_argument("--report", type=Path, help="a result folder: its report is compared, not a run")
    parser.add_argument("--keep", type=Path, help="folder for the results of all turns, COMMIT-TURN; else they go")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.epilog = "Behind -- come the options of `run`; none: the whole of digits."
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:end])
    command = ["run", *words[end + 1 :], "--out"]
    if options.report:
        command = ["report", "--out", str(options.report.resolve()), "--to"]
    keep = options.keep and options.keep.resolve()
    old, new = compare(options.commits, options.blocks, command, keep)
    ratios = [n / o for o, n in zip(old.seconds, new.seconds, strict=True)]
    differences = moved(old, new)
    print(f"{new.commit[:10]} / {old.commit[:10]}: {statistics.median(ratios):.2f} of the CPU time")
    for side in (old, new):
        print(f"  {side.commit[:10]}: {', '.join(f'{s:.1f}' for s in side.seconds)} CPU-seconds")
    print(f"  {len(differences)} numbers of the leaderboard moved", *differences, sep="\n    ")
    if options.json:
        record = {"old": vars(old), "new": vars(new), "ratio": statistics.median(ratios), "moved": differences}
        options.json.write_text(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
