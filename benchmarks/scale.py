"""Measure how bench's own work grows with the number of cells: `python -m benchmarks.scale --json FILE`.

Planning: a command that finds some of its cells stored, up to the point where the first cell would be computed, at two
sizes, whose ratio gives the exponent; then a dry run of 100,000 cells. Rows are stored first, since what is slow
appears only where other cells are stored. Rows are GradReg's on digits, with one training seed and the suite's
evaluations; all are trained, and half of the evaluations that read no other cell are stored, with made-up results.
Then what the local engine costs per small cell (`engine_overhead.py`), and the report of a board of many rows
(`board_scale.py`).
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.running import prepare
from bench.running.cell_index import CellIndex
from bench.running.cells import Cell
from bench.running.companions import with_companions
from bench.running.describe import plan_record
from bench.running.dry_run import cell_states, dry_run
from bench.running.plan import Plan
from bench.running.schedule import Job, Schedule
from bench.store import seals, serialise
from bench.store.database import Database
from bench.store.store import Store
from benchmarks.board_scale import board
from benchmarks.engine_overhead import overhead

SMALL, LARGE, HUGE = 2_500, 10_000, 100_000
CELLS_PER_ROW = 12  # a training and the eleven evaluations of the suite `digits` on rows that do not read each other


def options(rows: int, out: Path) -> prepare.Options:
    """Return the options of a command with so many rows."""
    defenses = tuple(f"gradreg:lambda_gradient={1 + place}" for place in range(rows))
    return prepare.Options(suite="digits", narrow={"defenses": defenses, "seeds": (0,)}, out=out)


def made_up(job: Job) -> tuple[Cell, dict[str, str]] | None:
    """Return the cell of a job and the information that is stored of it; None for one that is left to do."""
    weights = f"{job.place:064x}"
    if job.evaluation is None:
        return job.run.cell, {"weights": weights}
    if job.evaluation.inputs or random.Random(job.name).random() < 0.5:
        return None
    return job.evaluation.cell(job.run, weights), {}


def store_rows(plan: Plan) -> int:
    """Store what `made_up` says of every job of a plan.

    Returns:
        How many cells were stored.
    """
    stored = 0
    (plan.out / "weights").mkdir(parents=True)
    database = Database.open(plan.out, create=True)
    with database.transaction() as db:
        for job in Schedule(plan).jobs:
            if (found := made_up(job)) is None:
                continue
            cell, info = found
            if job.evaluation is None:
                (plan.out / "weights" / f"{info['weights']}.safetensors").touch()
            values = {"id": cell.id, "kind": cell.kind, "status": "done", "seconds": 1.0, "generation": 1}
            spec = serialise.dump_json({**cell.spec, "name": job.name})
            seals.put(db, "cells", {**values, "spec": spec, "info": serialise.dump_json(info), "heartbeat": 1.0})
            stored += 1
    database.close()
    return stored


def start(rows: int, out: Path) -> int:
    """Do what `run` does before its first cell.

    Returns:
        How many cells it has planned.
    """
    plan = prepare.prepare(options(rows, out))
    with Store.open(out) as store:
        plan = with_companions(plan, store)
        number = store.plans.put(plan_record(plan))
        bound = CellIndex(Schedule(plan), store, still=True).bindings()
        store.plans.bind_all((number, place, key, cell) for (place, key), cell in bound.items())
        return len(cell_states(plan, store))


def planning(scratch: Path) -> Iterator[tuple[str, float]]:
    """Yield the figures of planning by name."""
    seconds, cells = dict[int, float](), dict[int, int]()
    for wanted in (SMALL, LARGE):
        rows, out = wanted // CELLS_PER_ROW + 1, scratch / str(wanted)
        store_rows(prepare.prepare(options(rows, out)))
        start(rows, out)  # the second time there is an earlier plan, whose rows are looked at as well
        begun = time.process_time()
        cells[wanted] = start(rows, out)
        seconds[wanted] = time.process_time() - begun
    growth = math.log(seconds[LARGE] / seconds[SMALL]) / math.log(cells[LARGE] / cells[SMALL])
    yield "plan_cells", cells[LARGE]
    yield "plan_10000_seconds", seconds[LARGE]
    yield "plan_exponent", growth


def dry(scratch: Path) -> Iterator[tuple[str, float]]:
    """Yield the figures of a dry run by name; the memory is that of the whole process, libraries included."""
    rows, out = HUGE // CELLS_PER_ROW + 1, scratch / "huge"
    store_rows(prepare.prepare(options(rows, out)))
    begun = time.process_time()
    _, states = dry_run(options(rows, out))
    yield "dry_run_cells", len(states)
    yield "dry_run_100000_seconds", time.process_time() - begun
    yield "dry_run_100000_mb", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Print the figures, and write them as JSON where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    path, found = parser.parse_args().json, dict[str, float]()
    with tempfile.TemporaryDirectory(prefix="scale-") as scratch:
        for part in (planning, dry, overhead, board):
            for name, value in part(Path(scratch)):
                found[name] = round(value, 3)
                print(f"{name}: {value:,.6g}", flush=True)
    if path:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
