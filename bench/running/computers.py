"""In which process a task is computed: ours in this one, third parties' in a child of each run's own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable

from bench.core.process_state import process_state_kept
from bench.core.user_code import origin_of, origins_of
from bench.running import torchrun
from bench.running.child import warm_up
from bench.running.compute import Computer
from bench.running.kept_child import KeptChild
from bench.running.planned import Run
from bench.running.tasks import Emit, Stop, Task, functions_of


def expect(runs: Iterable[Run]) -> None:
    """Start the server of child processes while other work is done, if one of the runs will need it."""
    if any(origin_of(run.job.defense.function) for run in runs):
        warm_up()


class Computers:
    """Computes tasks, each in the process that it belongs in; a context manager, which ends the child.

    A child serves the tasks of one run, so that what a defense does to its process reaches no other defense; for an
    evaluation that is not ours there is another one per run. What a process has died over is computed in a child as
    well, whosever it is, so that no command dies at the same cell for ever.

    Args:
        silent_seconds: how long a child may give no sign of life.
        log: called with a line of a child's output.
    """

    def __init__(self, silent_seconds: float, log: Callable[[str], None]) -> None:
        self._here, self._apart = Computer(), KeptChild(silent_seconds, log)

    def __enter__(self) -> Computers:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child."""
        self.close()

    def close(self) -> None:
        """End the child, if there is one."""
        self._apart.close()

    def compute(self, task: Task, emit: Emit, stop: Stop, *, apart: bool = False) -> None:
        """Compute a task, see `Computer.compute`.

        Args:
            task: what is computed.
            emit: called with each result, in order.
            stop: asked whether to stop.
            apart: use a child for our own code as well: the last process that computed it has died.

        Raises:
            Stopped: it was asked to.
            BenchError: it cannot be computed.
        """
        origins = origins_of(functions_of(task))
        ours = all(function.__module__.startswith("bench.") for function in functions_of(task))
        if not origins and not (ours and apart):
            with contextlib.nullcontext() if ours else process_state_kept():
                self._here.compute(task, emit, stop)
            return
        torchrun.refuse_apart(task)
        self._apart.compute(task, emit, stop, origins=origins, purpose=(task.label, origins))
