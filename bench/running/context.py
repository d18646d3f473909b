"""What every part of a run shares: the plan, the store, whom it reports to and when it stops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from bench.core.errors import Stopped
from bench.running.plan import Plan
from bench.running.prepare import Options
from bench.running.progress.reporter import Reporter
from bench.running.stopping import StopRequest
from bench.store.store import Store


@dataclass(frozen=True)
class RunContext:
    """The surroundings of a run.

    Attributes:
        plan: what is computed.
        store: where results go.
        reporter: what is printed meanwhile.
        stop: tells when to stop.
        options: of the command.
        role: an "owner" has stored the plan and binds cells to it; a "worker" computes cells of an owner's plan.
        number: the stored plan's number; without meaning for a worker.
        started: when the command began, in seconds since the epoch; a cell that has failed since is not tried again.
    """

    plan: Plan
    store: Store
    reporter: Reporter
    stop: StopRequest
    options: Options
    role: Literal["owner", "worker"]
    number: int = 0
    started: float = 0.0

    def raise_if_stopped(self) -> None:
        """Leave the run where it was asked to stop.

        Raises:
            Stopped: it was.
        """
        if self.stop():
            raise Stopped("stopped; everything finished so far is stored. Run the same command to go on.")


@dataclass(frozen=True)
class Outcome:
    """What a run did.

    Attributes:
        computed: cells that this process computed.
        failures: name of a job to the cause of its failure.
    """

    computed: int = 0
    failures: dict[str, str] = field(default_factory=dict)
