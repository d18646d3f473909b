"""What a run says on a terminal, in a pipe and to a program: true counts, every cell, whichever process computed it."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from bench.running import machine
from bench.running.progress.events import EVENTS, from_line
from tests.bench.store import folders

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="pseudo-terminals, /proc")
ROOT = Path(__file__).resolve().parents[3]
DEFENSES = ["standard", "vanilla", "softplus_wd", "lcnn"]
EVALUATIONS = """
[evaluations.accuracy]
[evaluations.pgd_l2]
eps = [0.1, 0.5]
steps = 4
limit = 60
[evaluations.curvature]
steps = 3
limit = 30
[evaluations.stability]
radius = [0.1]
limit = 30
"""
CELLS = len(DEFENSES) * 5


class Terminal:
    """A command on a pseudo-terminal of 100 × 40 characters."""

    def __init__(self, *arguments: object) -> None:
        self._ours, theirs = pty.openpty()
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        environment = {**os.environ, "COLUMNS": "100", "LINES": "40", "TERM": "xterm", "PYTHONPATH": path}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench", *map(str, arguments)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment,
            cwd=ROOT,
        )
        os.close(theirs)
        self.text = ""

    def parts(self, seconds: float = 300.0) -> Iterator[str]:
        """Yield what is printed until the command has ended."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if select.select([self._ours], [], [], 0.2)[0]:
                try:
                    part = os.read(self._ours, 1 << 16).decode(errors="replace")
                except OSError:  # nobody has the other end any more
                    break
                self.text += part
                yield part
            elif self.process.poll() is not None:
                break
        self.process.wait(10)
        os.close(self._ours)

    @property
    def lines(self) -> list[str]:
        """The text without colours and movements of the cursor."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text)
        return [line.strip() for line in re.split(r"[\r\n]+", plain) if line.strip()]


@pytest.fixture(scope="module")
def suite(tmp_path_factory, write_suite) -> Path:
    return write_suite(tmp_path_factory.mktemp("suite") / "tiny.toml", DEFENSES, EVALUATIONS, epochs=2)


@pytest.mark.skipif(machine.cores() < 2, reason="one core has no workers")
def test_ctrl_c_and_the_rest_of_the_run_on_a_terminal(suite: Path, tmp_path: Path) -> None:
    command = ("run", "--suite", suite, "--out", tmp_path / "out", "--train-limit", 400)
    first = Terminal(*command)
    maps = Path(f"/proc/{first.process.pid}/maps")
    loaded_before_a_word, pressed = None, False
    for _ in first.parts():
        if loaded_before_a_word is None:
            loaded_before_a_word = "libtorch_cpu" in maps.read_text()
        if not pressed and "[3/20]" in first.text:
            pressed = True
            os.kill(first.process.pid, signal.SIGINT)
    assert first.lines[0] == f"suite {suite}: loading torch and the data"
    assert loaded_before_a_word is False, "the first line waits for no library"
    assert f"{CELLS} cells, 0 cached, 2 processes" in first.lines
    assert first.process.returncode == 130
    (said,) = [line for line in first.lines if line.startswith("Ctrl-C: stopping after this")]
    assert said.endswith("; Ctrl-C again stops now.")
    stored = re.fullmatch(rf"stopped early: (\d+) of {CELLS} cells stored\. .*", first.lines[-1])
    assert stored is not None, first.lines[-1]

    second = Terminal(*command)
    for _ in second.parts():
        pass
    assert second.process.returncode == 0, second.text
    done = int(stored[1])
    assert (
        f"{CELLS} cells, {done} cached, 2 processes" in second.lines or f"{CELLS} cells, {done} cached" in second.lines
    )
    numbers = [int(n) for line in second.lines for n in re.findall(rf"\[(\d+)/{CELLS}\]", line)]
    assert numbers == list(range(done + 1, CELLS + 1)), "each cell is listed, in whichever process it was computed"
    drawn = {int(n) for line in second.lines for n in re.findall(rf"cells .*?(\d+)/{CELLS} ", line)}
    assert drawn == set(range(done, CELLS + 1)), "the bar counts each of them"


def test_events_say_what_lines_say(suite: Path, tmp_path: Path, cli: Callable[..., Any]) -> None:
    command = ("run", "--suite", suite, "--out", tmp_path / "out", "--train-limit", 400, "--defense", "standard")
    done = cli(*command, "--json")
    assert done.code == 0, done.err
    events = [from_line(line) for line in done.out.splitlines()]
    assert None not in events, "nothing else is on stdout"
    kinds = [event.event for event in events if event is not None]
    assert {"began", "cell_began", "cell_done", "ended"} <= set(kinds)
    facts = [json.loads(line) for line in done.out.splitlines()]
    began = next(f for f in facts if f["event"] == "began")
    assert (began["cells"], began["cached"], began["processes"], began["format"]) == (5, 0, 1, 1)
    ends = [f for f in facts if f["event"] == "cell_done"]
    assert [f["done"] for f in ends] == [1, 2, 3, 4, 5]
    assert [f["cell"] for f in ends][:2] == ["train standard seed 0", "standard seed 0: accuracy"]
    assert facts[-1] | {"time": 0, "seconds": 0} == {
        "event": "ended",
        "code": 0,
        "done": 5,
        "of": 5,
        "failed": 0,
        "page": str(tmp_path / "out" / "leaderboard.html"),
        "time": 0,
        "seconds": 0,
    }
    plan = json.loads(cli(*command, "--dry-run", "--json").out)
    assert plan["counts"] == {"cells": 5, "cached": 5}


def test_every_event_and_field_is_documented() -> None:
    text = (ROOT / "docs" / "progress.md").read_text(encoding="utf-8")
    for event in EVENTS:
        (row,) = [line for line in text.splitlines() if line.startswith(f"| `{event.event}` |")]
        for field in fields(event):
            assert f"`{field.name}`" in row, f"{event.event}: {field.name}"


def test_commands_on_a_folder_say_how_far_they_are(cli: Callable[..., Any], monkeypatch: Any, tmp_path: Path) -> None:
    from bench.cli import terminal

    folders.make(tmp_path / "out", "a", "b")
    assert cli("report", "--out", tmp_path / "out").err == "", "what is quick says nothing"
    monkeypatch.setattr(terminal, "SILENT_SECONDS", 0.0)
    report = cli("report", "--out", tmp_path / "out").err.splitlines()
    assert report[0] == "report: reading models 1/2"
    assert any(line.startswith("report: writing files 1/") for line in report)
    pack = cli("results", "pack", "--out", tmp_path / "out", "--to", tmp_path / "pack")
    assert pack.err.splitlines()[0] == "pack: copying cells 1/6"
    unpack = cli("results", "unpack", tmp_path / "pack", "--out", tmp_path / "back")
    assert unpack.err.splitlines()[0].startswith("unpack: checking files 1/")


def test_a_dry_run_downloads_nothing(cli: Callable[..., Any], monkeypatch: Any, tmp_path: Path) -> None:
    from bench.data import download

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setenv("BENCH_DATA", str(tmp_path / "empty"))
    monkeypatch.setattr(download.urllib.request, "urlopen", opened)
    monkeypatch.setattr(socket, "create_connection", opened)
    done = cli("run", "--suite", "cifar10", "--dry-run", "--out", tmp_path / "out")
    assert done.code == 4
    assert "the download from" in done.err
    assert "was not allowed" in done.err
    assert not (tmp_path / "out").exists()
