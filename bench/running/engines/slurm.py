"""The engine on Slurm: chunks of cells are tasks of job arrays, which exchange files with the driver on a shared disk.

The driver submits, waits and is the only process that writes the store. Driver killed: the jobs go on, and the same
command takes what they have written.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

from bench.core.errors import MachineError, UsageError
from bench.running.child import ChildError
from bench.running.context import Outcome, RunContext
from bench.running.remote.crew import run_elsewhere
from bench.running.remote.orders import parse_order
from bench.running.remote.parts import Parts, parts_folder, work
from bench.running.stopping import parse_duration

NEEDS: Final = "submitit"
CLUSTERS: Final = ("slurm", "local", "debug")
GATHER_SECONDS: Final = 1.0  # orders of that time are one array
RETRIES: Final = 3  # of an order whose job ends without a reply
JOBS: Final = 32
PATIENCE: Final = 24 * 3600.0  # a queue may be long
_OURS: Final = ("cluster", "parts", "time", "jobs")


def run(context: RunContext) -> Outcome:
    """Compute every cell of the plan that is not stored by jobs of Slurm.

    Args:
        context: plan, store, reporter and stop request.

    Returns:
        What was computed, and what failed.

    Raises:
        Stopped: the run was asked to stop.
        UsageError: `--slurm` names something that submitit does not know, or no number of jobs.
        MachineError, LockedError, IntegrityError, StoreError, SecurityError: nothing more can be done here.
    """
    asked = dict(context.options.slurm)
    jobs = jobs_at_once(asked)
    parts = Parts(parts_folder(context.plan.out, asked))
    transport = SlurmTransport(executor(parts.folder, asked), parts)
    try:
        return run_elsewhere(context, transport, jobs, PATIENCE)
    finally:
        for finding in parts.contradictions():
            context.reporter.log(finding)


def jobs_at_once(asked: Mapping[str, str]) -> int:
    """Return how many cells are under way at once.

    Args:
        asked: of `--slurm`: `jobs=2`.

    Raises:
        UsageError: it is no whole number from 1 to 99999.
    """
    text = asked.get("jobs", str(JOBS))
    if not (text.isdecimal() and len(text) < 6 and int(text)):
        raise UsageError(f"--slurm jobs: expected a whole number from 1 to 99999, got {text[:40]!r}.")
    return int(text)


def executor(folder: Path, asked: Mapping[str, str]) -> Any:
    """Return submitit's executor.

    Args:
        folder: for its logs.
        asked: of `--slurm`: `time=2h`, `cluster=local` for this machine alone; the others are submitit's `slurm_*`.

    Raises:
        UsageError: a setting that submitit does not know.
        MachineError: there is no Slurm.
    """
    import submitit

    cluster = asked.get("cluster", "slurm")
    if cluster not in CLUSTERS:
        raise UsageError(f"--slurm cluster: expected {', '.join(CLUSTERS)}, got {cluster!r}.")
    try:
        minutes = max(1, int(parse_duration(asked.get("time", "1h")) / 60))
        found = submitit.AutoExecutor(folder=folder / "logs" / "%j", cluster=cluster)
        named = {f"slurm_{name}": value for name, value in asked.items() if name not in (*_OURS, "gpus")}
        gpus = {"gpus_per_node": int(asked["gpus"])} if "gpus" in asked else {}
        found.update_parameters(timeout_min=minutes, **gpus, **named)
    except (NameError, ValueError, TypeError) as error:
        raise UsageError(f"--slurm: expected settings that submitit knows, got {error}.") from error
    except RuntimeError as error:
        raise MachineError(f"--engine slurm: expected Slurm, got {error}. Run on a machine with sbatch.") from error
    return found


class Work:
    """What a job calls: what the command `work` does, for one order; a preempted or timed-out job is queued again."""

    def __init__(self, folder: str, order: str) -> None:
        self.folder, self.order = folder, order

    def __call__(self) -> str:
        """Compute the order and return its SHA-256."""
        work(Path(self.folder), [self.order])
        return self.order

    def checkpoint(self) -> Any:
        """Return what submitit submits in the place of a job that it has to end."""
        import submitit

        return submitit.helpers.DelayedSubmission(Work(self.folder, self.order))


class SlurmTransport:
    """Carries orders as tasks of job arrays.

    Args:
        jobs: submitit's executor.
        parts: the shared folder.
    """

    def __init__(self, jobs: Any, parts: Parts) -> None:
        self._executor, self._parts = jobs, parts
        self._lock, self._closed = threading.Lock(), False
        self._gathered: list[str] = []
        self._since = 0.0
        self._jobs: dict[str, Any] = {}
        self._tries: dict[str, int] = {}

    def put(self, content: bytes) -> str:
        """Write a blob into the shared folder, once per content, and return its SHA-256."""
        return self._parts.put(content)

    def keep_only(self, names: Collection[str]) -> None:
        """Leave every blob where it is: it is a file, and orders of other commands may name it."""

    def submit(self, order: bytes) -> str:
        """Note an order for the next array; one whose reply is there already is not computed again."""
        parse_order(order)
        sha256 = self._parts.order(order)
        with self._lock:
            if self._parts.reply(sha256) is None and sha256 not in self._jobs and sha256 not in self._gathered:
                self._since = self._since if self._gathered else time.monotonic()
                self._gathered.append(sha256)
        return sha256

    def answer(self, ticket: str, seconds: float) -> bytes | None:
        """Return the reply to an order; None if there is none within so many seconds.

        Raises:
            MachineError: the run ends.
            ChildError: jobs ended without a reply again and again.
        """
        if self._closed:
            raise MachineError("--engine slurm: expected a run that goes on, got one that ends.")
        if (reply := self._parts.reply(ticket)) is not None:
            return reply
        with self._lock:
            self._send()
            self._look_after(ticket)
        time.sleep(seconds)
        return self._parts.reply(ticket)

    def _send(self) -> None:
        """Submit what was gathered as one array."""
        if self._gathered and time.monotonic() - self._since >= GATHER_SECONDS:
            names, self._gathered = self._gathered, []
            with self._executor.batch():
                jobs = [self._executor.submit(Work(str(self._parts.folder), name)) for name in names]
            self._jobs.update(zip(names, jobs, strict=True))

    def _look_after(self, order: str) -> None:
        """Submit an order again whose job has ended without a reply.

        Raises:
            ChildError: it has done so too often.
        """
        job = self._jobs.get(order)
        if job is None or not job.done() or self._parts.reply(order) is not None:
            return
        self._tries[order] = self._tries.get(order, 0) + 1
        if self._tries[order] > RETRIES:
            raise ChildError(f"expected a result, got the end of {RETRIES + 1} jobs. Their logs are in parts/logs.")
        del self._jobs[order]
        self._since = self._since if self._gathered else time.monotonic()
        self._gathered.append(order)

    def cancel(self, ticket: str) -> None:
        """Give an order up."""
        with self._lock, contextlib.suppress(Exception):  # it may have ended
            self._gathered = [name for name in self._gathered if name != ticket]
            if (job := self._jobs.pop(ticket, None)) is not None:
                job.cancel(check=False)

    def drop(self, ticket: str) -> None:
        """Forget the reply to an order, which was a failure: the next command asks again."""
        self._parts.drop(ticket)

    def close(self) -> None:
        """Give every order up."""
        self._closed = True
