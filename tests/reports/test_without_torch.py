"""Reports are rebuilt on a machine without torch, by the command and by every module of bench.reports."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import bench.reports

# Run in a fresh process in which `import torch` fails as if it were not installed.
SCRIPT = """
import importlib, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
folder, modules = sys.argv[1], sys.argv[2].split()
from bench.cli.app import main
sys.argv = ["bench", "report", "--out", folder]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
for module in modules:
    importlib.import_module(module)
from bench.reports.board.compare import compare
print("compared", len(compare(folder, "lcnn", "gradreg").comparisons))
"""


def test_report_and_compare_need_no_torch(tmp_path: Path, fabricate: ModuleType) -> None:
    folder = tmp_path / "no torch, ünïcode"
    fabricate.make_store(folder, fabricate.make_plan())
    modules = [m.name for m in pkgutil.walk_packages(bench.reports.__path__, "bench.reports.")]
    assert {"bench.reports.board.build", "bench.reports.html.page", "bench.reports.claims"} <= set(modules)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), " ".join(modules)],
        capture_output=True, text=True, check=False, cwd=Path(bench.__file__).parent.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "gradreg" in done.stdout
    assert done.stdout.endswith("compared 10\n")
    assert (folder / "leaderboard.html").stat().st_size > 10_000
    assert (folder / "leaderboard.csv").is_file()
