"""Parse a command, call one function, exit with its code. All messages for the user of the terminal are here."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from bench.cli import results
from bench.core.errors import BenchError, UsageError, did_you_mean
from bench.core.version import VERSION
from bench.running import machine

app = typer.Typer(
    name="bench",
    add_completion=False,
    no_args_is_help=True,
    help="Train, attack, measure and rank adversarial-robustness defenses under one equal recipe.",
)

app.add_typer(results.app, name="results")

Defenses = Annotated[
    list[str] | None, typer.Option("--defense", help="Only this defense (repeatable); NAME:key=value,… overrides.")
]
Evaluations = Annotated[list[str] | None, typer.Option("--evaluation", help="Only this evaluation (repeatable).")]
Seeds = Annotated[str | None, typer.Option("--seeds", help="Training seeds, e.g. 0,1.")]
Data = Annotated[Path | None, typer.Option("--data", help="Folder in which data sets are looked for first.")]
Out = Annotated[Path | None, typer.Option("--out", help="Result folder (default: results/<suite>).")]
Included = Annotated[
    list[Path] | None, typer.Option("--include", help="Python file with your own entries (runs as code).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


@app.command()
def run(  # noqa: PLR0917 - the command's options
    suite: Annotated[str, typer.Option("--suite", help="Name of a suite, or a TOML file.")] = "digits",
    defense: Defenses = None,
    evaluation: Evaluations = None,
    seeds: Seeds = None,
    data: Data = None,
    out: Out = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:i.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="First N test images.")] = None,
    train_limit: Annotated[int | None, typer.Option(min=1, help="First N training images.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs instead of the recipe's.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of training on a GPU: auto, fp32, tf32 or bf16.")] = None,
    batch_size: Annotated[str, typer.Option(help="Images per call in evaluations: a number, or auto.")] = "auto",
    step: Annotated[str, typer.Option(help="How a training step runs: auto, eager, graph or compile.")] = "auto",
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Train with the same bits each time, on a GPU too.")
    ] = False,
    time_limit: Annotated[str | None, typer.Option(help="Stop in time, e.g. 9m; run again to go on.")] = None,
    engine: Annotated[str, typer.Option(help="Where cells run: local.")] = "local",
    address: Annotated[str | None, typer.Option(help="Address of a cluster.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Backbone instead of the suite's.")] = None,
    attack_peer: Annotated[str | None, typer.Option(help="Also run the attacks by another library.")] = None,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Exit 7 if another run holds the cells.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    include: Included = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and what is cached; do nothing.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Say nothing but the board.")] = False,
) -> None:
    """Plan, train, evaluate and report a suite. The same command again finishes what is missing."""
    from bench.running import environment, pipeline, prepare, workers
    from bench.running.dry_run import dry_run as plan_only
    from bench.training.execution import ExecutionConfig, parse_step_mode

    prepare.check_engine(engine, address)
    options = prepare.Options(
        suite=suite,
        narrow={
            "defenses": tuple(defense or ()), "evaluations": tuple(evaluation or ()), "seeds": _seeds(seeds),
            "limit": limit, "train_limit": train_limit, "epochs": epochs, "precision": precision,
            "backbone": backbone, "attack_peer": attack_peer,
        },
        data_dir=data, out=out, device=device, batch_size=_batch_size(batch_size),
        execution=ExecutionConfig(parse_step_mode(step), deterministic), time_limit=_duration(time_limit),
        no_wait=no_wait, debug=debug, quiet=quiet, included=tuple(str(p) for p in include or ()),
        command=environment.command_line(), arguments=tuple(sys.argv[1:]),
    )  # fmt: skip
    if workers.is_worker():
        pipeline.work(options)
        return
    if dry_run:
        _print_plan(*plan_only(options))
        return
    _finish(pipeline.run(options))


def _finish(result: Any) -> NoReturn:
    """Print a run's board and what went wrong, and exit with its code."""
    _print_board(result.board, result.out)
    for name, cause in result.failures.items():
        _complain(f"{name}: {cause}")
    if result.code > 1:
        _complain("stopped early; everything finished so far is stored. Run the same command again to go on.")
    raise typer.Exit(result.code)


def _seeds(text: str | None) -> tuple[int, ...] | None:
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


def _batch_size(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size: expected auto or a number from 1 up, got {text!r}. Write --batch-size auto.")
    return int(text)


def _duration(text: str | None) -> float | None:
    from bench.running.stopping import parse_duration

    if text is None:
        return None
    try:
        return parse_duration(text)
    except ValueError:
        raise UsageError(f"--time-limit: expected a duration such as 90s, 9m or 1.5h, got {text!r}.") from None


def _print_plan(plan: Any, states: list[Any]) -> None:
    """Print a dry run: one line per cell, then the sums."""
    for s in states:
        cost = "" if s.seconds is None or s.cached else f"  (took {s.seconds:.1f} s before)"
        print(f"{'cached' if s.cached else 'to do ':6}  {s.name}{'' if s.cached else f': {s.why}'}{cost}")
    epochs = [r.job.recipe.epochs * len(r.job.train) for r in plan.rows]
    todo = {s.name for s in states if not s.cached}
    passes = sum(e for e, r in zip(epochs, plan.rows, strict=True) if f"train {r.label}" in todo)
    known = [s.seconds for s in states if not s.cached]
    measured = sum(k for k in known if k is not None)
    rest = sum(k is None for k in known)
    print(
        f"estimated cost: {passes:,} training images; {measured:.0f} s for cells that have run before"
        + (f", {rest} cells have no time yet" if rest else "")
    )
    print(f"cells: {len(states)}, cached: {sum(s.cached for s in states)}")


def _print_board(board: Any, out: Path) -> None:
    from bench.reports.exports.terminal import board_table

    _console().print(board_table(board))
    print(out / "leaderboard.html")


def _console() -> Console:
    """Return the console for results; into a pipe or a file, lines are long enough not to be cut."""
    return Console(width=None if sys.stdout.isatty() else 160)


@app.command("list")
def list_(
    what: Annotated[str, typer.Argument(help="defenses, attacks, evaluations, suites or datasets.")],
    as_json: AsJson = False,
    include: Included = None,
    data: Data = None,
) -> None:
    """List what the registry holds."""
    from bench.cli import listing
    from bench.core import discovery

    for path in include or ():
        discovery.include(path)
    if what not in listing.KINDS:
        raise UsageError(
            f"list: expected {', '.join(listing.KINDS)}, got {what!r}. {did_you_mean(what, listing.KINDS)}"
        )
    entries = listing.entries(what, data)
    if as_json:
        print(json.dumps(entries, indent=2, ensure_ascii=False))
    else:
        _console().print(listing.table(what, entries))


@app.command()
def report(out: Annotated[Path, typer.Option("--out", help="Result folder.")] = Path("results/digits")) -> None:
    """Rebuild the leaderboard from the store; needs no torch."""
    from bench import reports

    _print_board(reports.write(out), out)


@app.command("doctor")
def doctor_(data: Data = None, as_json: AsJson = False) -> None:
    """Say what this machine can run, and smoke-test it."""
    from bench.cli import doctor

    found = doctor.examine(data)
    if as_json:
        print(json.dumps([c.record() for c in found], indent=2))
    else:
        _console().print(doctor.table(found))
    raise typer.Exit(4 if any(c.verdict == "fail" for c in found) else 0)


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="A defense of --out, or a result folder: the old one.")],
    b: Annotated[str, typer.Argument(help="Likewise: the new one.")],
    out: Annotated[Path, typer.Option("--out", help="Result folder.")] = Path("results/digits"),
    fail_on_regression: Annotated[bool, typer.Option("--fail-on-regression", help="Exit 1 if B is worse.")] = False,
) -> None:
    """Compare two defenses, or two result folders, on the same images: difference, interval, p, verdict."""
    from bench.reports.board.compare import compare as compared
    from bench.reports.exports.terminal import comparison_table

    found = compared(out, a, b)
    _console().print(comparison_table(found))
    for line in found.skipped:
        print(f"not compared: {line}")
    for c in found.regressions:
        print(f"regression: {' '.join(filter(None, (c.defense, c.column)))} {c.a_value:.4f} → {c.b_value:.4f}")
    raise typer.Exit(1 if fail_on_regression and found.regressions else 0)


_LATER = {"allow_extra_args": True, "ignore_unknown_options": True}


@app.command(context_settings=_LATER)
def evaluate() -> None:
    """Put a trained model of your own on the board (comes later; today: `bench.evaluate` in Python)."""
    raise UsageError(
        "evaluate: expected a command that exists, got one that comes later. Use bench.evaluate in Python."
    )


@app.command(context_settings=_LATER)
def verify() -> None:
    """Re-score the saved adversarial examples (comes later)."""
    raise UsageError("verify: expected a command that exists, got one that comes later. Use `run` again meanwhile.")


def main() -> NoReturn:
    """Run the command line and exit with the code of README's table."""
    debug = "--debug" in sys.argv
    machine.keep_memory()
    try:
        answer = app(standalone_mode=False)
        code = answer if isinstance(answer, int) else 0
    except BenchError as error:
        code = _fail(str(error), error.exit_code, debug)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except MemoryError as error:
        code = _fail(f"memory: expected enough of it, got {error or 'none'}. Use a smaller --batch-size.", 4, debug)
    except typer.TyperException as error:  # unknown option, missing value …
        code = _fail(f"bench: {error.format_message()} See `python -m bench --help`.", 2, debug)
    except Exception as error:
        hint = "" if debug else " Run again with --debug for the traceback, and report it."
        code = _fail(f"bench: internal error, {type(error).__name__}: {error}.{hint}", 1, debug)
    sys.exit(code)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    _complain(message)
    return code


def _complain(message: str) -> None:
    """Print one line on stderr, without control characters."""
    line = " ".join(message.split())
    print("".join(c for c in line if c.isprintable()), file=sys.stderr)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"bench {VERSION}")
        raise typer.Exit
