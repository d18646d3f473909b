"""What third parties' code prints while it is imported: cut, on stderr, never on stdout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.core.printed import LENGTH, LINES, printed_to_stderr

WAYS: dict[str, Callable[[str], object]] = {
    "print": print,
    "stderr": lambda text: print(text, file=sys.stderr),
    "native": lambda text: os.write(1, f"{text}\n".encode()),
    "process": lambda text: subprocess.run(["echo", text], check=True),
}


@pytest.mark.parametrize("way", WAYS)
def test_whichever_way_it_is_printed_it_goes_to_stderr(capfd: pytest.CaptureFixture[str], way: str) -> None:
    print("ours before")
    with printed_to_stderr():
        WAYS[way]("theirs \x1b[31m")
    print("ours after")
    out, err = capfd.readouterr()
    assert out == "ours before\nours after\n"
    assert "| theirs" in err
    assert "\x1b" not in err


@printed_to_stderr()
def _flood() -> None:
    for _ in range(20):
        os.write(1, b"x" * 1_000_000)
    for number in range(1000):
        print(number)
    raise ValueError("after")


def test_a_flood_is_cut_and_an_exception_shows_what_was_printed_before(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="after"):
        _flood()
    out, err = capfd.readouterr()
    assert out == ""
    assert len(err.splitlines()) == LINES + 1
    assert max(map(len, err.splitlines())) <= LENGTH + 10
    assert "the rest of its output is not shown" in err.splitlines()[-1]


def test_a_process_that_goes_on_writing_does_not_stop_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    with printed_to_stderr():
        started = subprocess.Popen(["sleep", "30"])
    started.kill()
    started.wait()
    print("ours")
    assert capfd.readouterr().out == "ours\n"


NOISY = """
import os, sys
import bench
print("hello from an import")
print("x" * 10_000_000)
os.write(1, b"native\\n")
sys.stdout.write('{"not": "ours"}')


@bench.defense(source="here")
def noisy(num_classes, in_shape, backbone):
    \"\"\"Print when it is built.\"\"\"
    print("hello from a factory")
    from bench.models.defenses.standard import standard
    return standard(num_classes, in_shape, backbone)
"""


def test_json_stays_json_and_a_plan_stays_a_plan(cli: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "noisy.py"
    file.write_text(NOISY)
    done = cli("list", "defenses", "--json", "--include", file)
    assert done.code == 0, done.err
    assert "noisy" in {entry["name"] for entry in json.loads(done.out)}
    assert "| hello from an import" in done.err
    assert len(done.err) < 60 * LENGTH
    done = cli(
        "run", "--suite", "digits", "--include", file, "--defense", "noisy", "--dry-run", "--out", tmp_path / "o"
    )
    assert done.code == 0, done.err
    assert "hello" not in done.out
    assert "| hello from a factory" in done.err
