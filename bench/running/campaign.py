"""A suite in pieces, each under a time limit, of which only a small folder survives.

For a machine that is reached by bounded commands and starts bare each time. A piece unpacks what the last one packed
(or goes on in `--work`, if that is still there), trains and evaluates the next unfinished defenses, and packs the
result: at most 8 small files. Run it again until it says that it is complete.

    python -m bench.running.campaign --suite cifar10-fast --data DIR --out OUT --minutes 9 [--from OUT]

What travels: every finished evaluation and every finished chunk; the weights of models whose evaluations are
unfinished; all weights and adversarial examples as long as they fit, because what compares models comes last
and needs them (where they do not fit it is left out, and said so). Optimiser states never travel: a training that
cannot end within its piece is given up as soon as that shows, and starts first in the next one.

Exit codes: 0 complete, 1 some cells failed or nothing fits into a piece, 75 more to do, else as `python -m bench run`.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from bench.core.errors import BenchError
from bench.core.streams import say
from bench.core.text import PAGE, described, one_line
from bench.packs.pack import LISTING, Limits, Packed, TooLarge, Weights, pack
from bench.packs.unpack import unpack
from bench.store.database import NAME
from bench.store.status import RunStatus, run_status

MORE, FAILED = 75, 1
_KILLED = -9


@dataclass(frozen=True)
class Piece:
    """What a piece came to: its exit code, how far the campaign is, and the pack; None where nothing was planned."""

    code: int
    status: RunStatus | None
    packed: Packed | None


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parse = argparse.ArgumentParser(prog="bench.running.campaign", description=__doc__.split("\n", 1)[0])
    parse.add_argument("--suite", required=True, help="name of a suite, or a TOML file")
    parse.add_argument("--data", type=Path, help="folder in which data sets are looked for first")
    parse.add_argument("--out", type=Path, required=True, help="small folder for the pack")
    parse.add_argument("--from", dest="source", type=Path, help="what an earlier piece packed; may be --out")
    parse.add_argument("--work", type=Path, help="result folder that may outlive a piece (default: a temporary one)")
    parse.add_argument("--minutes", type=float, default=9.0, help="for the whole piece, packing included")
    parse.add_argument("--total-mb", type=float, default=60.0, help="what all files of the pack may be together")
    parse.add_argument("--weights", action="store_true", help="keep the weights in the complete pack")
    parse.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:i")
    parse.add_argument("--defense", action="append", help="only this defense (repeatable)")
    parse.add_argument("--evaluation", action="append", help="only this evaluation (repeatable)")
    parse.add_argument("--seeds", type=lambda text: tuple(map(int, text.split(","))), help="e.g. 0,1")
    for name in ("limit", "train-limit", "epochs", "batch-size"):
        parse.add_argument(f"--{name}", type=int, help="as of `bench run`")
    parse.add_argument("--precision", help="of training: auto, fp32, tf32 or bf16")
    parse.add_argument("--backbone", help="backbone instead of the suite's")
    return parse


def run_piece(arguments: argparse.Namespace) -> Piece:
    """Unpack, compute until the time is up, pack.

    Returns:
        What was done and how far the suite is.

    Raises:
        BenchError: the pack is damaged, or nothing could be computed or packed.
    """
    started = time.time()
    with tempfile.TemporaryDirectory(prefix="campaign-") as scratch:
        work = arguments.work or Path(scratch) / "results"
        if not (work / NAME).is_file() and arguments.source and (arguments.source / LISTING).is_file():
            unpack(arguments.source, work, board=False)
        elif arguments.source and not (work / NAME).is_file():
            say(f"campaign: no pack in {arguments.source}, starting from the beginning")
        before = _progress(work)
        seconds = 60 * arguments.minutes
        reserve = min(60.0, 0.15 * seconds)  # for the last chunk in flight, and for packing
        code = _in_process(arguments, work, started + seconds - reserve, grace=reserve / 2)
        if not (work / NAME).is_file() or code not in (0, FAILED, MORE, _KILLED):
            return Piece(code if code > 0 else FAILED, None, None)
        now = run_status(work)
        code = MORE if code == _KILLED else code
        if code == MORE and _progress(work) == before:
            code = FAILED
        return Piece(code, now, pack_what_fits(work, arguments, complete=code == 0))


def _progress(work: Path) -> tuple[int, int]:
    """Return how much has been done in a folder, as numbers that only grow."""
    if not (work / NAME).is_file():
        return 0, 0
    now = run_status(work)
    return now.done, now.chunks


def _in_process(arguments: argparse.Namespace, work: Path, deadline: float, grace: float) -> int:
    """Compute in a process of its own, which is killed when a chunk outlasts the limit: the store survives that."""
    process = multiprocessing.get_context("spawn").Process(target=compute, args=(arguments, work, deadline))
    process.start()
    process.join(max(0.0, deadline + grace - time.time()))
    if process.is_alive():
        process.kill()
        process.join()
    return int(process.exitcode or 0)


def compute(arguments: argparse.Namespace, work: Path, deadline: float) -> NoReturn:
    """Run the suite in `work` until a time in seconds since the epoch at most, and exit with the run's code."""
    from rich.console import Console

    from bench.reports.exports.terminal import board_table
    from bench.running import machine, pipeline, prepare

    machine.keep_memory()
    narrow = {
        "defenses": tuple(arguments.defense or ()),
        "evaluations": tuple(arguments.evaluation or ()),
        "seeds": arguments.seeds,
        **{name: getattr(arguments, name) for name in ("limit", "train_limit", "epochs", "precision", "backbone")},
    }
    options = prepare.Options(
        suite=arguments.suite,
        narrow=narrow,
        data_dir=arguments.data,
        out=work,
        device=arguments.device,
        batch_size=arguments.batch_size,
        time_limit=max(deadline - time.time(), 1e-3),
        command=command_of(arguments),
        whole_trainings=True,
    )
    try:
        result = pipeline.run(options)
    except BenchError as error:
        say(error)
        sys.exit(error.exit_code)
    if result.board is not None:
        Console(width=160).print(board_table(result.board))
    for name, cause in result.failures.items():
        say(f"{name}: {cause}")
    sys.exit(result.code)


def command_of(arguments: argparse.Namespace) -> str:
    """Return the command that the board shows: what decides the numbers, without this machine's paths."""
    words = ["python -m bench.running.campaign", "--suite", Path(arguments.suite).name]
    words += ["--data", "DIR"] if arguments.data else []
    for name in ("defense", "evaluation"):
        words += [word for value in getattr(arguments, name) or () for word in (f"--{name}", value)]
    words += ["--seeds", ",".join(map(str, arguments.seeds))] if arguments.seeds else []
    for name in ("limit", "train_limit", "epochs", "precision", "backbone"):
        value = getattr(arguments, name)
        words += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    return " ".join([*words, "--out", "OUT"])


def pack_what_fits(work: Path, arguments: argparse.Namespace, complete: bool) -> Packed:
    """Pack a result folder with as much as fits of what the next piece can use.

    Returns:
        What the pack holds.

    Raises:
        TooLarge: not even the tables fit.
    """
    limits = Limits(total=int(1e6 * arguments.total_mb))
    steps: list[tuple[Weights, bool]] = [("all", True), ("needed", False), ("none", False)]
    if complete:
        steps = [("all" if arguments.weights else "none", False)]
    for weights, pictures in steps[:-1]:
        try:
            return _pack(work, arguments.out, weights, pictures, limits)
        except TooLarge:
            continue
    return _pack(work, arguments.out, *steps[-1], limits)


def _pack(work: Path, out: Path, weights: Weights, pictures: bool, limits: Limits) -> Packed:
    """Pack; hours of computing must not be lost because a page cannot be drawn, so then the store alone."""
    try:
        return pack(work, out, weights=weights, pictures=pictures, limits=limits)
    except BenchError:
        raise
    except Exception as error:
        say(f"campaign: no board, {described(error)}; the pack holds the store")
        return pack(work, out, weights=weights, pictures=pictures, board=False, limits=limits)


def summary(piece: Piece) -> str:
    """Return one line: what is done, what is left, what the pack holds."""
    if piece.status is None or piece.packed is None:
        return f"campaign: nothing was packed: the run ended with code {piece.code} or before it had planned anything"
    now, packed = piece.status, piece.packed
    rows = [row for row in now.rows if set(row.unfinished) - row.last]
    left = [f"{row.label} ({'trained, ' if row.weights else ''}{len(row.unfinished)} cells)" for row in rows]
    last = sorted({key for row in now.rows for key in row.unfinished if key in row.last})
    if not rows and last:
        models = sum(bool(set(row.unfinished) & row.last) for row in now.rows)
        left.append(f"{', '.join(last)} of {models} models" + (", left out" if piece.code == 0 else ""))
    text = f"campaign: {len(now.rows) - len(rows)} of {len(now.rows)} models, {now.done} of {now.total} cells done; "
    text += f"left: {', '.join(left)}; " if left else "complete; "
    failed = {f"{row.label}: {key}": cause for row in now.rows for key, cause in row.failed.items()}
    if failed:
        text += f"failed: {'; '.join(f'{k}: {v}' for k, v in failed.items())}; "
    elif piece.code == FAILED:
        text += "nothing was finished in this piece: give it more --minutes; "
    size = sum(packed.sizes.values()) / 1e6
    return text + f"pack: {len(packed.sizes)} files, {size:.3g} MB, weights of {packed.weights} models"


def main() -> int:
    """Run one piece and return its exit code."""
    arguments = parser().parse_args()
    try:
        piece = run_piece(arguments)
    except BenchError as error:
        say(error)
        return error.exit_code
    print(one_line(summary(piece), PAGE))
    return piece.code


if __name__ == "__main__":
    sys.exit(main())
