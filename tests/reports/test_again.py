"""How to run a board again: commit, versions and data, no path of the machine it ran on, and all of its rows."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from bench.core.handed_over import PROVENANCE
from bench.reports.board.model import Board, Row
from bench.reports.html import again, page
from bench.store.board_plan import BoardPlan


def typed(board: Board, *commands: str) -> Board:
    """Return a board whose rows were planned by these commands in turn."""
    places = [(row.defense, seed) for row in board.rows for seed in row.runs]
    known = {place: commands[k % len(commands)] for k, place in enumerate(places)}
    return replace(board, shown=BoardPlan(board.plan, frozenset(places), known))


def row_of(board: Board, name: str) -> Row:
    """Return the row of a defense."""
    return next(row for row in board.rows if row.defense == name)


@pytest.mark.parametrize(
    ("command", "clean"),
    [
        ("python -m bench run --suite digits", "--suite digits"),
        ("python -m bench run --suite /root/my/s.toml --limit 8", "--suite s.toml --limit 8"),
        ("python -m bench run --suite=cifar10 --data /mnt/big/cifar --out /tmp/x", "--suite cifar10 --data DIR"),
        ("python -m bench run --include /home/me/d.py --include=./e.py", "--include d.py --include e.py"),
        ("python -m bench run --suite s --time-limit 9m --quiet --engine ray --address ray://h:1", "--suite s"),
        ("python -m bench run --suite s --only --deterministic --out 'my results'", "--suite s --deterministic"),
        ("campaign.py --suite s", "--suite digits"),
        ("python -m bench run --suite 'unbalanced", "--suite digits"),
    ],
)  # fmt: skip
def test_a_command_says_what_is_computed_and_no_place_of_one_machine(board: Board, command: str, clean: str) -> None:
    board = typed(board, command)
    assert again.board_command(board) == f"python -m bench run {clean}"
    assert "/" not in again.again(board).steps.replace("://", "").replace("results/digits", "")


def test_the_command_of_a_board_names_all_its_rows_whatever_the_last_one_added(board: Board) -> None:
    board = typed(
        board, "python -m bench run --suite digits --defense new --seeds 0", "python -m bench run --suite digits"
    )
    command = again.board_command(board)
    assert re.findall(r"--defense (\S+)", command) == [row.defense for row in board.rows]
    assert command.endswith(" --seeds 0,1")
    assert command.startswith("python -m bench run --suite digits --defense ")


def test_the_command_of_a_row_is_the_one_that_planned_it_with_its_own_name_and_seeds(board: Board) -> None:
    board = typed(board, "bench run --suite s --defense a --defense=b --seeds 0,1,2 --epochs 3 --out /x/y")
    command = again.row_command(board, row_of(board, "lcnn"))
    assert command == "python -m bench run --suite s --epochs 3 --defense lcnn --seeds 0,1"


def test_a_model_that_was_handed_over_has_the_command_that_evaluated_it(make_board: Callable[..., Board]) -> None:
    given = "python -m bench evaluate --suite digits --model /a/nets.py:oval --weights /b/oval.safetensors --name oval"
    board = typed(make_board(n=40, seeds=1, row_provenance=PROVENANCE), given)
    row = board.rows[0]
    assert again.load_line(board.plan, row) == ""
    clean = "python -m bench evaluate --suite digits --model nets.py:oval --weights oval.safetensors --name oval"
    assert again.row_command(board, row) == clean
    assert again.again(board).steps.count(clean) == 1


def test_the_steps_hold_commit_versions_and_data(board: Board, make_board: Callable[..., Board]) -> None:
    steps = again.again(board).steps
    assert "git checkout 7f0b8a4\n" in steps
    assert "with local changes that no commit holds" in steps
    assert "pip install -e . torch==2.15.0 numpy==2.4.6 pandas==3.1.1  # Python 3.11.4" in steps
    assert "# The data: digits (scikit-learn), 1,437 training and 200 test images" in steps
    assert "fingerprint cdcdcdcdcdcdcdcd…" in steps
    assert steps.endswith("python -m bench run --suite digits")
    copy = make_board(n=40, seeds=1, data_name="cifar10-jpeg", data_original=False, data_note="A JPEG copy.")
    assert "--data DIR. A JPEG copy." in again.again(copy).steps


def test_a_local_version_is_pinned_by_its_public_part(board: Board) -> None:
    environment = board.plan.environment.model_copy(
        update={"torch": "2.15.0+cpu", "packages": {"foolbox": "absent"}, "commit": ""}
    )
    plan = board.plan.model_copy(update={"environment": environment})
    steps = again.again(replace(board, plan=plan)).steps
    assert "pip install -e . torch==2.15.0  #" in steps
    assert "foolbox" not in steps
    assert "git checkout" not in steps
    assert "its commit is not known" in steps


def test_the_line_that_loads_a_network_reads_the_suites_folder(board: Board) -> None:
    row = replace(row_of(board, "lcnn"), defense="lcnn:lambda_beta=0.01")
    line = again.load_line(board.plan, row)
    assert line == 'bench.load_model("lcnn:lambda_beta=0.01", seed=0, out="results/digits")'
    compile(line, "page", "eval")
    assert "load_model(&#34;cure&#34;, seed=0" in page.render(board)


def test_it_says_how_long_it_took(board: Board) -> None:
    seconds = sum(f.training["cpu_seconds"] + 9.5 * len(f.info) for r in board.rows for f in r.runs.values())
    assert again.again(board).took == f"{seconds / 60:.1f} min of CPU time, all cells together, on x86-64, 2 cores"
