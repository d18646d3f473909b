"""One child process at a time, kept between tasks of one purpose and replaced when it has died."""

from __future__ import annotations

from collections.abc import Callable

import torch

from bench.core.user_code import Origin
from bench.running.child import Child
from bench.running.tasks import CallTask, Emit, Stop, Task


class KeptChild:
    """Computes tasks in a child; whoever has one closes it.

    Args:
        silent_seconds: how long the child may give no sign of life.
        log: called with a line of its output.
    """

    def __init__(self, silent_seconds: float, log: Callable[[str], None]) -> None:
        self._silent, self._log = silent_seconds, log
        self._child: Child | None = None
        self._purpose: object = None

    def close(self) -> None:
        """End the child, if there is one."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def compute(
        self, task: Task | CallTask, emit: Emit, stop: Stop, *, origins: tuple[Origin, ...], purpose: object = None
    ) -> None:
        """Compute a task in the child of this purpose; another purpose gets a child of its own.

        Args:
            task: what is computed.
            emit: called with each result, in order.
            stop: asked whether to stop.
            origins: third parties' code that the child imports.
            purpose: what the child is for.

        Raises:
            BenchError: the task's own; or the child died, or gave no sign of life.
            Stopped: it was asked to stop.
        """
        if self._child is None or self._purpose != purpose or not self._child.usable:
            self.close()
            self._child, self._purpose = Child(origins, torch.get_num_threads(), self._silent, self._log), purpose
        try:
            self._child.compute(task, emit, stop)
        except BaseException:
            if not self._child.usable:
                self.close()
            raise
