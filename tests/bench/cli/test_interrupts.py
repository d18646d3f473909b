"""Ctrl-C before anything is computed: 130 and one line, whatever is being loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.running.progress.estimate import Size
from bench.running.progress.events import Began
from bench.running.progress.reporter import Reporter
from bench.running.stopping import StopRequest, parse_duration

ROOT = Path(__file__).resolve().parents[3]
LOADING = """
import sys, time, types
import bench.__main__ as program

class Slow(types.ModuleType):
    def __getattr__(self, name):
        if name != "main":
            raise AttributeError(name)
        print("loading", flush=True)
        time.sleep(60)

sys.modules["bench.cli.app"] = Slow("bench.cli.app")
program.main()
"""


def test_ctrl_c_while_the_command_line_loads() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", LOADING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "loading\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "stopped by Ctrl-C before anything was computed.\n")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ctrl_c_while_torch_loads(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench", "run", "--suite", "digits", "--dry-run", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    maps = Path(f"/proc/{process.pid}/maps")
    while process.poll() is None and "libtorch_cpu" not in maps.read_text():
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "stopped by Ctrl-C; whatever was finished is stored.\n")


def test_an_end_of_a_stream_is_no_ctrl_c(cli, monkeypatch) -> None:
    from bench.cli import listing

    def ended(*_: object) -> None:
        raise EOFError("nothing more to read")

    monkeypatch.setattr(listing, "entries", ended)
    done = cli("list", "suites")
    assert done.code == 1
    assert "nothing more to read" in done.err


def test_an_interrupt_that_an_import_turns_into_another_error_is_still_one(cli, monkeypatch) -> None:
    """Extension modules report what their initialisation raised as ImportError or SystemError."""
    from bench.cli import listing

    def interrupted(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(10)
        except KeyboardInterrupt as error:
            raise ImportError("initialization of somelibrary failed") from error

    monkeypatch.setattr(listing, "entries", interrupted)
    before = signal.getsignal(signal.SIGINT)
    done = cli("list", "suites")
    assert (done.code, done.err) == (130, "stopped by Ctrl-C; whatever was finished is stored.\n")
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_says_how_long_the_chunk_may_take(capfd) -> None:
    reporter = Reporter()
    sizes = {title: Size("autoattack_l2", 10.0, 64) for title in "abc"}
    reporter.begin(Began("s", "d", "cpu", "out", cells=3, cached=0, processes=1), sizes)
    for title in "ab":
        reporter.cell(title, of=1)
        reporter.done(title, 600.0)
    reporter.cell("c", of=5, done=1)
    reporter.progress("apgd-t", 31, 64)
    stop = StopRequest()
    stop.within = lambda: reporter.stop_note
    with stop.signals():
        os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == "\nCtrl-C: stopping after this chunk, up to 2 min; Ctrl-C again stops now.\n"
    reporter.done("c", 1.0)
    assert reporter.stop_note == "", "nothing is computed now"


def test_ctrl_c_is_acknowledged_at_once_and_obeyed_at_once_the_second_time(capfd) -> None:
    stop = StopRequest()
    with stop.signals():
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop()
        assert "Ctrl-C again stops now" in capfd.readouterr().err
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop.code == 130


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90.0), ("9m", 540.0), ("1.5h", 5400.0)])
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["9", "1.5", "", "s", "-3m", "soon", "9 m x", "inf", "1e30h"])
def test_what_is_no_duration_is_refused(text: str, cli) -> None:
    done = cli("run", "--suite", "digits", "--time-limit", text, "--dry-run")
    assert done.code == 2
    assert f"--time-limit: expected a duration such as 90s, 9m or 1.5h, got {text!r}." in done.err
    assert ("Say its unit: 9s, 9m or 9h." in done.err) == (text == "9")
