"""The shell's completion: commands, options, and the names of the suites."""

import os
import subprocess
import sys

import pytest

PROGRAM = "import sys; sys.argv = ['bench']; from bench.__main__ import main; main()"


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("bench results p", {"pack"}),
        ("bench run --defe", {"--defense"}),
        ("bench run --suite cifar10", {"cifar10", "cifar10-fast"}),
        ("bench evaluate --suite cifar100", {"cifar100", "cifar100-fast"}),
    ],
)
def test_what_is_typed_is_completed(typed, found):
    settings = {"_BENCH_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert found <= set(done.stdout.split())


def test_the_script_for_a_shell_is_printed():
    settings = {"_BENCH_COMPLETE": "source_bash"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    assert "complete -o default -F" in done.stdout
