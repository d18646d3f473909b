"""The engine that waits for nobody: replies that are in a folder are stored, the orders that are next are written.

`python -m bench collect` is `run` with this engine: between two of its calls `python -m bench work` computes the
orders, on as many machines as see the folder. It may be called while jobs run: what another process computes is left
to that one.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from bench.core.errors import Stopped
from bench.running.attempt import attempt
from bench.running.context import Outcome, RunContext
from bench.running.engines.local import JobByJob
from bench.running.remote.crew import computers_of
from bench.running.remote.parts import Parts, parts_folder
from bench.running.schedule import Job
from bench.running.tasks import Computes

AGAIN = 75  # the exit code: the same command goes on


def run(context: RunContext) -> Outcome:
    """Store the replies that are there and write the orders of every cell that can be computed now.

    Args:
        context: plan, store, reporter and stop request.

    Returns:
        What was computed, and what failed; every cell is settled.

    Raises:
        Stopped: orders have no reply yet, or the run was asked to stop.
        MachineError, IntegrityError, StoreError, SecurityError: nothing more can be done here.
    """
    parts = Parts(parts_folder(context.plan.out, context.options.slurm))
    with computers_of(context, Waiting(parts), math.inf) as computers:
        collecting = Collecting(context, computers)
        outcome = collecting.run()
    for finding in parts.contradictions():
        context.reporter.log(finding)
    if collecting.unanswered:
        context.reporter.log(
            f"{len(parts.left())} orders have no reply yet: python -m bench work {parts.folder}, then this command"
        )
        context.stop.code = context.stop.code or AGAIN
        context.raise_if_stopped()
    return outcome


class Collecting(JobByJob):
    """The state of one command: each job is tried once.

    Attributes:
        unanswered: jobs that are not settled, because orders have no reply or another process computes them.
    """

    def __init__(self, context: RunContext, computers: Computes) -> None:
        super().__init__(context, computers)
        self.unanswered: set[str] = set()

    def run(self) -> Outcome:
        """Go through the jobs until nothing more comes of it.

        Returns:
            What was computed, and what failed.
        """
        left, before = list(self._index.schedule.jobs), -1
        while left and len(left) != before:
            before = len(left)
            left = [job for job in left if job.name in self.unanswered or not self._settle(job)]
        self.unanswered |= {job.name for job in left}
        return self.outcome()

    def _settle(self, job: Job) -> bool:
        """Store what there is of a job; True if nothing more is to be done about it."""
        step = self.step(job)
        if isinstance(step, bool):
            return step
        try:
            return self.ended(job, attempt(job, step, self._context, self._index, self._computers))
        except NoReplyYet:
            self.unanswered.add(job.name)
            return False


class NoReplyYet(Stopped):
    """An order has no reply: its cell is given back, what was stored of it stays."""


class Waiting:
    """Carries orders into a folder, and the replies that are there back.

    Args:
        parts: the folder.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._asked = set[str]()  # orders without a reply that were looked at

    def put(self, content: bytes) -> str:
        """Write a blob, once per content, and return its SHA-256."""
        return self._parts.put(content)

    def keep_only(self, names: Collection[str]) -> None:
        """Leave every blob where it is: it is a file, and orders of other commands may name it."""

    def submit(self, order: bytes) -> str:
        """Write an order, once per content."""
        return self._parts.order(order)

    def answer(self, ticket: str, seconds: float) -> bytes | None:
        """Return the reply to an order; None where there is none, so that the replies to others are taken first.

        Raises:
            NoReplyYet: it is asked for again.
        """
        reply = self._parts.reply(ticket)
        if reply is None and ticket in self._asked:
            raise NoReplyYet(f"order {ticket[:12]}: no reply yet")
        self._asked.add(ticket)
        return reply

    def cancel(self, ticket: str) -> None:
        """Leave an order where it is: it may be under way."""

    def drop(self, ticket: str) -> None:
        """Forget the reply to an order, which was a failure: the next command asks again."""
        self._parts.drop(ticket)

    def close(self) -> None:
        """Nothing is under way in this process."""
