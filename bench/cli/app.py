"""Parse a command, call one function, exit with its code (docs/reference/files.md has the table of codes)."""

from __future__ import annotations

import errno
import gc
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Annotated, Final, NoReturn

import typer

from bench.cli import (
    audit,
    board,
    challenge,
    check,
    doctor,
    evaluate,
    index,
    listing,
    new,
    open_page,
    results,
    run,
    search,
    status,
    store,
    suite,
    verify,
    work,
)
from bench.cli.terminal import complain
from bench.core import streams
from bench.core.errors import BenchError, MachineError
from bench.core.text import described
from bench.core.user_code import broken_plugins
from bench.core.version import VERSION
from bench.running import machine

COMPLETING: Final = "_BENCH_COMPLETE"
COMPLETION_OPTIONS: Final = ("--install-completion", "--show-completion")
INTERRUPTED: Final = 130
STOPPED: Final = "stopped by Ctrl-C; whatever was finished is stored."
MACHINE_ERRORS: Final = frozenset(
    {
        *(errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM),
        *(errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENAMETOOLONG, errno.EFBIG, errno.ELOOP),
    }
)

PACKAGES: Final = {"sklearn": "scikit-learn", "PIL": "pillow", "yaml": "pyyaml"}  # imported under another name
SHORT_HELP: Final = """\
bench: train, attack, measure and rank adversarial-robustness defenses under one equal recipe.

  bench run                                    eight defenses on 8×8 digits: minutes on a CPU, no download
  bench run --suite cifar10-fast --dry-run     what a suite would compute; nothing is done
  bench run --defense lcnn:lambda_beta=0.01    one more row on the board that is there
  bench evaluate --model FILE.py:FACTORY       a trained model of yours as a row
  bench new defense NAME                       a file to start a defense from
  bench list suites                            also: defenses, attacks, evaluations, datasets
  bench report --out DIR                       the board again, from what is stored

bench --help lists all commands, bench COMMAND --help the options of one."""

app = typer.Typer(
    name="bench",
    rich_markup_mode=None,  # its libraries take a third of the time of --help to load
    help="Train, attack, measure and rank adversarial-robustness defenses under one equal recipe.",
)
for group in (run, evaluate, search, new, check, listing, board, open_page, index, doctor, verify, audit, challenge):
    app.add_typer(group.commands)
app.add_typer(status.commands)
app.add_typer(work.commands)
app.add_typer(results.commands, name="results")
app.add_typer(store.commands, name="store")
app.add_typer(suite.commands, name="suite")


def main() -> NoReturn:
    """Run the command line and exit with the code of docs/reference/files.md."""
    streams.secure()
    first = sys.argv[1] if len(sys.argv) > 1 else ""
    if COMPLETING in os.environ or first.startswith(COMPLETION_OPTIONS):  # typer answers the shell, and exits
        app(prog_name="bench")
    machine.keep_memory()
    with _Interrupts() as interrupts:
        code = _run(interrupts, debug="--debug" in sys.argv)
    for problem in broken_plugins():
        complain(problem)
    if "torch" not in sys.modules:  # whose libraries name every function that is left at the end
        gc.freeze()  # the interpreter's last search for cycles would go through everything that ends with it anyway
    sys.exit(code)


class _Interrupts:
    """Remembers Ctrl-C: importing a library may turn its exception into another one."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> _Interrupts:
        main = threading.current_thread() is threading.main_thread()
        self._old = signal.signal(signal.SIGINT, self._ask) if main else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._old is not None:
            signal.signal(signal.SIGINT, self._old)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        raise KeyboardInterrupt


def _run(interrupts: _Interrupts, debug: bool) -> int:
    """Run the command and return its exit code; whatever it raised has been said in one line."""
    try:
        called = "bench" if Path(sys.argv[0]).stem == "bench" else "python -m bench"
        answer = app(standalone_mode=False, prog_name=called)
        sys.stdout.flush()
    except BenchError as error:
        return _fail(str(error), error.exit_code, debug)
    except MemoryError as error:
        return _fail(f"memory: expected enough of it, got {error or 'none'}. Use a smaller --batch-size.", 4, debug)
    except typer.TyperException as error:  # unknown option, missing value …
        return _wrong_usage(error, debug)
    except BaseException as error:
        hidden = error.__cause__ if isinstance(error, typer.Abort) else None  # of which typer says "aborted" as well
        return _unexpected(hidden if isinstance(hidden, EOFError) else error, interrupts, debug)
    if answer == INTERRUPTED and interrupts.asked:
        return _fail(STOPPED, INTERRUPTED, debug=False)
    return answer if isinstance(answer, int) else 0


def _wrong_usage(error: typer.TyperException, debug: bool) -> int:
    """Say what is wrong with the words of a command line, and whose help has the right ones; return the exit code."""
    context: typer.Context | None = getattr(error, "ctx", None)
    if context is not None and type(error).__name__ == "NoArgsIsHelpError":  # a group alone, e.g. `bench store`
        print(context.get_help())
        return 0
    said = error.format_message().replace("Input should be", "expected a number").rstrip(".")
    command = context.command_path if context is not None else "python -m bench"
    return _fail(f"bench: {said}. See `{command} --help`.", 2, debug)


def _unexpected(error: BaseException, interrupts: _Interrupts, debug: bool) -> int:
    """Say what ended a command that no part of it has expected, and return the exit code."""
    if interrupts.asked or isinstance(error, KeyboardInterrupt | typer.Abort):
        return _fail(STOPPED, INTERRUPTED, debug=False)
    if isinstance(error, BrokenPipeError | SystemExit) and streams.reader_gone():
        streams.discard(sys.__stdout__)  # the reader of our output has gone (`| head`): nothing is left to say
        return 0
    if isinstance(error, OSError):  # of a failed write nothing more is tried when the process ends
        streams.discard(sys.__stdout__)
    if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
        return _fail(
            f"bench: expected the system to do it, got {described(error)}. Check free space, permissions and limits.",
            MachineError.exit_code,
            debug,
        )
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != "bench":
        package = error.name.partition(".")[0]
        return _fail(
            f"bench: expected the package {PACKAGES.get(package, package)}, which this command imports, got none. "
            f"Install it: pip install {PACKAGES.get(package, package)}.",
            MachineError.exit_code,
            debug,
        )
    hint = "" if debug else " Run it as `python -m bench --debug …` for the traceback, and report it."
    return _fail(f"bench: internal error, {described(error)}.{hint}", 1, debug)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    for line in message.split("\n"):  # of several errors at once
        complain(line)
    return code


@app.callback(invoke_without_command=True)
def _common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of any command's errors.")] = False,
) -> None:
    if version:
        print(f"bench {VERSION}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(SHORT_HELP)
        raise typer.Exit
