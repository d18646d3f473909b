"""Parse a command, call one function, exit with its code (README has the table of codes)."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated, NoReturn

import typer

from bench.cli import audit, board, challenge, doctor, evaluate, listing, results, run, status, store, verify
from bench.cli.terminal import complain
from bench.core.errors import BenchError
from bench.core.text import described
from bench.core.user_code import broken_plugins
from bench.core.version import VERSION
from bench.running import machine

app = typer.Typer(
    name="bench",
    add_completion=False,
    no_args_is_help=True,
    help="Train, attack, measure and rank adversarial-robustness defenses under one equal recipe.",
)
for group in (run, listing, board, doctor, evaluate, verify, audit, challenge, status):
    app.add_typer(group.commands)
app.add_typer(results.commands, name="results")
app.add_typer(store.commands, name="store")


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
        code = _fail(f"bench: internal error, {described(error)}.{hint}", 1, debug)
    for problem in broken_plugins():
        complain(problem)
    sys.exit(code)


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    complain(message)
    return code


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"bench {VERSION}")
        raise typer.Exit
