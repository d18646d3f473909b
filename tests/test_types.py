"""mypy over the import names: `models/`, `attacks/` and `reports/` are packages within `bench`."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_types(tmp_path):
    """Check a folder of links in which the import names are real folders, as in an installed wheel."""
    package = tmp_path / "bench"
    package.mkdir()
    for source in [*(ROOT / "bench").iterdir(), ROOT / "models", ROOT / "attacks", ROOT / "reports"]:
        if source.name != "__pycache__":
            (package / source.name).symlink_to(source)
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "-p", "bench"]
    done = subprocess.run(
        [*command, "--cache-dir", str(ROOT / ".mypy_cache" / "test_types")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
