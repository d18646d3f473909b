"""The report of a large folder: 1,000 cells of 10,000 images, everything from the store to the page."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import matplotlib
import pytest

import bench
from bench.reports.figures import sheet


def test_a_report_loads_neither_torch_nor_what_takes_a_second_to_load() -> None:
    """Nor scipy.stats, which seaborn loads."""
    code = (
        "import sys; from bench.reports.board import build; from bench.reports.exports import writer;"
        "from bench.reports.figures import index; from bench.reports.html import page; index.makers();"
        "print(*{'torch', 'seaborn', 'scipy.stats', 'sklearn'} & sys.modules.keys())"
    )
    folder = Path(bench.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=folder)
    assert done.stdout.split() == []


def test_the_figures_look_as_seaborns_quiet_style_does() -> None:
    import seaborn

    quiet = seaborn.axes_style("white")
    assert {key: quiet[key] for key in sheet.QUIET} == sheet.QUIET
    assert quiet.keys() - sheet.QUIET.keys() - sheet.RC.keys() == {"image.cmap"}  # no figure shows an image
    with sheet.style():
        ours = dict(matplotlib.rcParams)
    with matplotlib.rc_context({**quiet, **sheet.RC}):
        theirs = dict(matplotlib.rcParams)
    assert {key for key in theirs if theirs[key] != ours[key]} == {"image.cmap"}


@pytest.mark.slow
def test_a_thousand_cells_of_ten_thousand_images_take_seconds(tmp_path: Path, fabricate: ModuleType) -> None:
    """Twenty defenses × 5 seeds × 10 evaluations, `report` alone, imports included.

    The goal is 10 s on an idle machine; CPU time grows by half where others use the same cores, and so much is allowed
    here. The measured time is printed.
    """
    names = {"standard": 0.2} | {f"defense_{i:02d}": 0.2 + 0.02 * i for i in range(1, 20)}
    evaluations = ("accuracy", "pgd_l2", "autoattack_l2", "stability", "curvature", "bounds")
    more = {f"{key}_again": {"evaluation": key} for key in ("accuracy", "pgd_l2", "stability", "curvature")}
    plan = fabricate.make_plan(names, (0, 1, 2, 3, 4), evaluations=evaluations, **more)
    fabricate.make_store(tmp_path, plan, n=10_000, chunk=500, distances=names)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "bench", "report", "--out", str(tmp_path)],
        check=True, capture_output=True, cwd=Path(bench.__file__).parent.parent,
    )  # fmt: skip
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - started
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"report of 1,000 cells × 10,000 images: {cpu:.1f} s of CPU, {wall:.1f} s")
    assert cpu < 15
