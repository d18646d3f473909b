"""Standard streams that are closed, full or ASCII only, and users without a home: work that is done stays done."""

from __future__ import annotations

import gc
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bench.core import streams
from bench.core.cache_folder import cache_folder
from bench.running.progress.display import Lines
from bench.running.progress.reporter import Reporter

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, write_suite: Callable[..., Path]) -> Path:
    """Return a result folder with a board of one row, under a name in other scripts."""
    from bench.running import pipeline
    from bench.running.prepare import Options

    folder = tmp_path_factory.mktemp("a folder ü 日本")
    suite = write_suite(folder / "tiny.toml", ["standard"], "[evaluations.accuracy]\nlimit = 8\n", epochs=1)
    narrow = {"train_limit": 60}
    return pipeline.run(Options(suite=str(suite), out=folder / "out", narrow=narrow, quiet=True)).out


def run(arguments: list[object], redirected: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run bench in a shell, with redirected streams."""
    command = " ".join(f'"{a}"' for a in [sys.executable, "-m", "bench", *arguments])
    return subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command} {redirected}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )


@pytest.mark.parametrize("redirected", ["> /dev/full", "<&- >&- 2>&-"])
def test_a_board_that_cannot_be_printed_is_written_all_the_same(board: Path, redirected: str) -> None:
    (board / "leaderboard.csv").unlink(missing_ok=True)
    done = run(["report", "--out", board], redirected)
    assert done.returncode == 0
    assert (board / "leaderboard.csv").is_file()
    assert "Traceback" not in done.stderr
    if redirected == "> /dev/full":
        assert "stdout: expected to print the results, got No space left on device. They are in" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_an_ascii_terminal_gets_numbers_for_what_it_cannot_show(board: Path) -> None:
    done = run(["report", "--out", board], LC_ALL="C", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert "standard" in done.stdout
    assert "\\u65e5\\u672c" in done.stdout
    assert not done.stderr


def test_a_reader_that_has_seen_enough_ends_nothing(board: Path) -> None:
    done = run(["list", "suites", "--json"], "| head -c 10")
    assert (done.returncode, done.stderr) == (0, "")


def test_output_that_is_the_work_itself_is_said_to_be_lost() -> None:
    done = run(["list", "suites"], "> /dev/full")
    assert done.returncode == 4
    assert len(done.stderr.strip().splitlines()) == 1
    assert "No space left on device" in done.stderr


def test_where_torch_is_loaded_the_last_search_for_cycles_stays(cli) -> None:
    """Its libraries report on stderr every function that is still there when the interpreter ends."""
    assert "torch" in sys.modules
    before = gc.get_freeze_count()
    assert cli("list", "suites").code == 0
    assert gc.get_freeze_count() == before


def test_a_closed_stream_takes_no_files_place() -> None:
    """What is opened next must not get the number of a closed stream: prints would go into it."""
    code = (
        "import os, sys\nfrom bench.core import streams\nstreams.secure()\n"
        "assert os.open(sys.executable, os.O_RDONLY) > 2\nprint('nowhere')\nprint('nowhere', file=sys.stderr)\n"
    )
    shell = f'"{sys.executable}" -c "{code}" <&- >&- 2>&-'
    assert subprocess.run(["bash", "-c", shell], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 0


class Full(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_progress_that_cannot_be_said_ends_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    display = Lines()
    reporter = Reporter(display)
    display.console = Console(file=Full(), soft_wrap=True)
    monkeypatch.setattr(sys, "stderr", Full())
    reporter.log("a line")
    reporter.done("a cell", 1.0)
    streams.say("a line")
    assert display.console.quiet


def test_a_user_without_a_home_has_a_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "BENCH_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 987_654)  # a number that no user has
    assert cache_folder().is_absolute()


LONG = "x" * 300


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["report", "--out", LONG], 4),
        (["report", "--out", "/".join([LONG[:200]] * 4)], 4),
        (["compare", "a", "b", "--out", LONG], 4),
        (["run", "--suite", LONG], 2),
        (["run", "--suite", f"{LONG}.toml"], 4),
        (["run", "--include", f"{LONG}.py"], 4),
        (["run", "--data", LONG], 4),
        (["run", "--out", LONG, "--dry-run"], 4),
        (["run", "--out", "/".join([LONG[:200]] * 30)], 4),
    ],
    ids=lambda v: str(v)[:30],
)
def test_a_path_that_is_too_long_is_one_line(cli, tmp_path: Path, monkeypatch, arguments: list[str], code: int) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli(*arguments, *(["--quiet"] if arguments[0] == "run" else []))
    assert done.code == code, done.err
    assert len(done.err.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_long_path_works_as_far_as_the_system_allows_it(board: Path, cli, tmp_path: Path) -> None:
    """Longer than a file name may be (255), shorter than SQLite's limit of 512."""
    deep = tmp_path.joinpath(*["d" * 60] * 4)
    deep.parent.mkdir(parents=True)
    board.rename(deep)
    try:
        assert len(str(deep)) > 255
        assert cli("report", "--out", deep).code == 0
    finally:
        deep.rename(board)


def test_a_name_that_is_no_unicode_is_a_folder_like_any_other(board: Path, cli, tmp_path: Path) -> None:
    odd = tmp_path / "odd \udc80 \x1b[31m"
    board.rename(odd)
    try:
        done = cli("report", "--out", odd)
        assert done.code == 0, done.err
        assert "\x1b" not in done.out
        refused = cli("compare", "a", "b", "--out", odd)
        assert refused.code == 2
        assert "\x1b" not in refused.err
    finally:
        odd.rename(board)
