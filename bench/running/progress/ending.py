"""How long the end of a run takes, after its last cell: reading the results, statistics, drawings, page, and the exit.

Nothing of it depends on the network or the attacks. CPU seconds are counted by rows and stored values, as fitted to
three boards: 8 rows of the suite digits (3.7 s after the last cell of a run on two idle cores), and the two of
docs/measured.md, "A board of many rows": 20 rows of five seeds on 10,000 images with ten evaluations, and 200 rows on
10,000 images with six.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from typing import Final

import psutil

from bench.running import machine
from bench.running.plan import Plan
from bench.running.schedule import Schedule

SECONDS: Final = 5.4  # of any board: libraries, drawings, and 1.8 s until the process has left
SECONDS_PER_ROW: Final = 0.07
SECONDS_PER_VALUE: Final = 0.5e-6  # an image that an evaluation has stored
LEAST: Final = 0.1  # of the whole that is said to be left while it is not over


def expected(plan: Plan) -> float:
    """Return the CPU seconds that the board of a plan is expected to take.

    Args:
        plan: the plan.
    """
    values = sum(len(job.evaluation.split) for job in Schedule(plan).jobs if job.evaluation is not None)
    return cpu_seconds(len({run.job.defense.name for run in plan.runs}), values)


def cpu_seconds(rows: int, values: int) -> float:
    """Return the CPU seconds that a board takes.

    Args:
        rows: defenses.
        values: images of all evaluations of all rows and seeds together.
    """
    return SECONDS + SECONDS_PER_ROW * rows + SECONDS_PER_VALUE * values


def waiting() -> float:
    """Return how many processes want each core of this machine, as the mean of a minute, at least 1."""
    with contextlib.suppress(OSError):
        return max(1.0, float(psutil.getloadavg()[0]) / machine.cores())
    return 1.0


class Ending:
    """The end of a run, first as it is ahead, then as it goes on.

    Args:
        seconds: of CPU time that it is expected to take.
        clock: seconds by the clock.
        processor: CPU seconds of this process.
        busy: processes that want each core, at least 1.
    """

    def __init__(
        self,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        processor: Callable[[], float] = time.process_time,
        busy: Callable[[], float] = waiting,
    ) -> None:
        self._seconds, self._clock, self._processor, self._busy = seconds, clock, processor, busy
        self._made, self._begun = self._now(), self._now()
        self._ahead = True

    def begin(self) -> None:
        """Begin: the cells are done."""
        self._begun, self._ahead = self._now(), False

    @property
    def left(self) -> float:
        """Seconds by the clock until the command is over; a CPU second takes as long as it has so far."""
        spent = 0.0 if self._ahead else self._processor() - self._begun[1]
        stretch = None if self._ahead else self._stretch(self._begun)
        if stretch is None:  # cells may be computed elsewhere, while this process waits: then the machine is not busy
            stretch = min(self._stretch(self._made) or math.inf, self._busy())
        return max(self._seconds - spent, LEAST * self._seconds) * max(1.0, stretch)

    def _now(self) -> tuple[float, float]:
        return self._clock(), self._processor()

    def _stretch(self, since: tuple[float, float]) -> float | None:
        """Return what a CPU second has taken by the clock; None before a second has passed."""
        passed, spent = self._clock() - since[0], self._processor() - since[1]
        return passed / spent if passed >= 1.0 and spent > 0 else None
