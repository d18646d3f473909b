"""Claim a job's cell, keep its lease alive while it is computed, record how it ended. Every engine goes this way."""

from __future__ import annotations

import contextlib
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.core.errors import BenchError, IntegrityError, MachineError, SecurityError, Stopped, StoreError
from bench.core.text import described, one_line
from bench.running.cell_index import CellIndex
from bench.running.cells import Cell
from bench.running.context import RunContext
from bench.running.jobs import run_job
from bench.running.schedule import Job
from bench.running.tasks import Computes
from bench.store.records import Lease, LeaseLost
from bench.store.store import Store

HEARTBEAT_SECONDS = 30.0
_FATAL = (MachineError, IntegrityError, SecurityError, StoreError)


@dataclass(frozen=True)
class Attempt:
    """How an attempt on a job ended.

    Attributes:
        state: "computed" now; "done" before; "held" by another process, which computes it; "failed".
        cause: of a failure.
    """

    state: Literal["computed", "done", "held", "failed"]
    cause: str = ""


def attempt(job: Job, cell: Cell, context: RunContext, index: CellIndex, computers: Computes) -> Attempt:
    """Compute a job unless it is done or somebody else computes it.

    Args:
        job: what is computed.
        cell: its cell.
        context: the run's surroundings.
        index: where its inputs are.
        computers: what has tasks computed.

    Returns:
        How it ended. A failure is stored; the next command tries the cell again, this one's workers do not.

    Raises:
        Stopped: the run was asked to stop; the cell is given back.
        MachineError, IntegrityError, SecurityError, StoreError: nothing more can be done here.
    """
    if cause := context.store.leases.failed_since(cell.id, context.started):
        context.reporter.failed(job.title, cause)
        return Attempt("failed", cause)
    lease = context.store.leases.claim(cell.id, cell.kind, {**cell.spec, "name": job.name})
    if lease is None:
        record = context.store.cell(cell.id)
        return Attempt("done" if record and record.status == "done" else "held")
    try:
        with _held(lease, context.store):
            run_job(job, lease, context, index, computers)
    except LeaseLost as error:
        context.reporter.log(f"  {job.name}: {error}")
        return Attempt("held")
    except (Stopped, *_FATAL):
        raise
    except (Exception, SystemExit) as error:
        cause = one_line(error) if isinstance(error, BenchError) else described(error)
        with contextlib.suppress(LeaseLost):  # then another worker computes it
            context.store.fail(lease, cause)
        context.reporter.failed(job.title, cause)
        if context.options.debug:
            traceback.print_exc()
        return Attempt("failed", cause)
    return Attempt("computed")


@contextlib.contextmanager
def _held(lease: Lease, store: Store) -> Iterator[None]:
    """Keep a lease alive inside the block; give it back where the block is left with the cell unfinished."""
    beat = _Heartbeat(store.out, lease)
    beat.start()
    try:
        yield
    except (Stopped, KeyboardInterrupt, *_FATAL):
        beat.stop()
        with contextlib.suppress(BenchError):
            store.leases.release(lease)
        raise
    finally:
        beat.stop()


class _Heartbeat(threading.Thread):
    """Refresh a lease every half minute, over a connection of its own."""

    def __init__(self, out: Path, lease: Lease) -> None:
        super().__init__(daemon=True)
        self._out, self._lease, self._over = out, lease, threading.Event()

    def run(self) -> None:
        """Refresh until stopped, or until the lease is lost (which the worker finds out by itself)."""
        while not self._over.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(BenchError), Store.open(self._out) as store:
                store.leases.heartbeat(self._lease)

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        if self.is_alive():
            self.join()
