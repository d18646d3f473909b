"""Measure what the local engine itself costs per cell: the CPU time that no cell records as its own.

A cell is `accuracy` on 8 images of digits by a trained convnet. Its own time is what its chunk records: the evaluation,
from the first pass to the last. The rest is looking up, the lease, the order, packing, and two durable transactions.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.running.context import RunContext
from bench.running.describe import plan_record
from bench.running.engines import local
from bench.running.prepare import Options, prepare
from bench.running.progress.display import Silent
from bench.running.progress.reporter import Reporter
from bench.running.stopping import StopRequest
from bench.store.store import Store

CELLS, REPEATS, IMAGES = 100, 3, 8
SUITE: Final = """
name = "small"
description = "Small cells."
dataset = "digits"
backbone = "convnet"
seeds = [0]
primary_eps = 0.5
defenses = ["standard"]

[recipe]
epochs = 1
augment = "none"
"""


def suite(seeds: range) -> str:
    """Return a suite with one evaluation per seed."""
    entries = (f'[evaluations.a{seed}]\nevaluation = "accuracy"\nseed = {seed}\nlimit = {IMAGES}\n' for seed in seeds)
    return "\n".join((SUITE, *entries))


def spent(path: Path, out: Path) -> tuple[float, int]:
    """Run a suite whose network is trained, or train it.

    Returns:
        CPU-seconds that no evaluation records as its own, and the evaluations that were computed.
    """
    options = Options(suite=str(path), narrow={"train_limit": 100}, out=out, quiet=True)
    plan = prepare(options)
    with Store.open(out, create=True) as store:
        before = {cell.id for cell in store.cells("evaluation")}
        number = store.plans.put(plan_record(plan))
        context = RunContext(plan, store, Reporter(Silent()), StopRequest(None), options, "owner", number, time.time())
        begun = time.process_time()
        local.run(context)
        seconds = time.process_time() - begun
        new = [cell for cell in store.cells("evaluation") if cell.id not in before]
        own = sum(float(cell.info["cpu_seconds"]) for cell in new)
    return seconds - own, len(new)


def overhead(scratch: Path) -> Iterator[tuple[str, float]]:
    """Yield the figures of the engine's own cost by name: the smallest of three runs, since other work disturbs.

    Args:
        scratch: an empty folder.
    """
    path, out, found = scratch / "small.toml", scratch / "small", list[float]()
    path.write_text(suite(range(3)), encoding="utf-8")
    spent(path, out)  # trains, and imports what is imported once
    for repeat in range(REPEATS):
        first = 1_000 * (1 + repeat)
        path.write_text(suite(range(first, first + CELLS)), encoding="utf-8")
        seconds, cells = spent(path, out)
        found.append(seconds / cells)
    yield "overhead_ms", 1_000 * min(found)
