"""Run the code blocks of a page in order, in the current folder: `python run_page.py PAGE [--whole]`.

With `--whole` blocks marked `small` run as they stand. A process of its own, because a page registers entries.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

from blocks import ROOT, Block, blocks, made_small, statements
from looked_at import look_at

from bench.cli.app import main as bench

NEVER_RUN = ("pip", "tox", "uvx", "git", "pre-commit", "sbatch")  # they install, fetch, or run all tests
SHELL = set("$|<>;`(")


def run_page(page: Path, whole: bool) -> None:
    """Run every block of a page; an exception names none, so the block is printed before it runs."""
    names: dict[str, object] = {"__name__": "__main__"}
    sys.path.insert(0, "")  # as in an interactive Python: files of the folder can be imported
    for block in blocks(page):
        print(f"--- {block.where}", file=sys.stderr, flush=True)
        if block.file:
            Path(block.file).parent.mkdir(parents=True, exist_ok=True)
            Path(block.file).write_text(block.text, encoding="utf-8")
            compile(block.text, block.where, "exec") if block.language == "python" else tomllib.loads(block.text)
        elif block.language == "toml":
            tomllib.loads(block.text)
        elif block.language == "sh":
            _shell(block, whole)
        elif block.only_checked:
            compile(block.text, block.where, "exec")
        else:
            exec(compile(block.text, block.where, "exec"), names)


def _shell(block: Block, whole: bool) -> None:
    """Run or check the commands of a block; all but the last end with 0."""
    lines = [part for line in statements(block) for part in ([line] if SHELL & set(line) else line.split(" && "))]
    for i, line in enumerate(lines):
        words = shlex.split(line, comments=True)
        if block.only_checked or words[0] in NEVER_RUN:
            look_at(words)
            continue
        code = _run(line, words, small=block.mark == "small" and not whole)
        expected = block.exit_code if i == len(lines) - 1 else 0
        assert code == expected, f"{block.where}: {line}: expected exit code {expected}, got {code}"


def _run(line: str, words: list[str], small: bool) -> int:
    """Run one command: bench in this process, anything else by the shell."""
    arguments = words[1:] if words[0] == "bench" else words[3:] if words[:3] == ["python", "-m", "bench"] else None
    if arguments is None or SHELL & set(line):
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            ["bash", "-ec", line], env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
        ).returncode
    sys.argv = ["bench", *(made_small(arguments) if small else arguments)]
    try:
        bench()
    except SystemExit as stop:
        return int(stop.code or 0)


if __name__ == "__main__":
    run_page(Path(sys.argv[1]), whole="--whole" in sys.argv)
