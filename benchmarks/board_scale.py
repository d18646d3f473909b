"""The report of a board of many rows, for `python -m benchmarks.scale`: 200 defenses on 10,000 images, made up.

What is measured is all of `bench report`: reading the store, statistics of all 19,900 pairs, drawings, page and files.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from bench.reports import write
from bench.reports.board.build import build
from bench.store.store import Store
from tests.reports import fabricate

ROWS, IMAGES, CHUNK = 200, 10_000, 500


def fabricated(out: Path) -> Path:
    """Store made-up results of all rows, of one seed and six evaluations.

    Args:
        out: the folder.

    Returns:
        The folder.
    """
    distances = {"standard": 0.2} | {f"defense_{k:03d}": 0.2 + 0.4 * k / ROWS for k in range(1, ROWS)}
    fabricate.make_store(out, fabricate.make_plan(distances, (0,)), n=IMAGES, chunk=CHUNK, distances=distances)
    return out


def board(scratch: Path) -> Iterator[tuple[str, float]]:
    """Yield the figures of the board by name: CPU seconds, and the size of the page.

    Args:
        scratch: an empty folder.
    """
    out = fabricated(scratch / "board")
    begun = time.process_time()
    with Store.open(out) as store:
        build(store)
    yield "board_200_numbers_seconds", time.process_time() - begun
    begun = time.process_time()
    write(out)
    yield "board_200_seconds", time.process_time() - begun
    yield "page_200_mb", (out / "leaderboard.html").stat().st_size / 1e6
