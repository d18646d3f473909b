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


@pytest.mark.parametrize("option", ["--show-completion", "--install-completion"])
def test_it_is_shown_and_installed_for_the_shell(option, tmp_path):
    """The shell is told as `--show-completion bash`, or found by typer where it is told to look for it."""
    settings = {"HOME": str(tmp_path), "SHELL": "/bin/bash", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    program = PROGRAM.replace("['bench']", f"['bench', {option!r}, 'bash']")
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **settings}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert any("_BENCH_COMPLETE=complete_bash" in text for text in [done.stdout, *written])
    assert bool(written) == (option == "--install-completion")
