"""Ctrl-C before anything is computed: 130 and one line, whatever is being loaded."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.running.stopping import StopRequest

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
