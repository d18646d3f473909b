"""Call functions that run third parties' code in a child process, as trainings and evaluations of a run are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.core.streams import say
from bench.core.user_code import Origin
from bench.running.child import SILENT_SECONDS
from bench.running.kept_child import KeptChild
from bench.running.stopping import StopRequest
from bench.running.tasks import CallTask, Event, Returned, Stop


class Apart:
    """Calls functions in a child that imports third parties' code; where there is none, in this process.

    A context manager, which ends the child. A child that has died is replaced at the next call.

    Args:
        label: what is done, for messages.
        origins: third parties' code that the functions run.
        silent_seconds: how long the child may give no sign of life, which is a pass through a network.
    """

    def __init__(self, label: str, origins: tuple[Origin, ...], silent_seconds: float = SILENT_SECONDS) -> None:
        self._label, self._origins = label, origins
        self._child = KeptChild(silent_seconds, say)

    def __enter__(self) -> Apart:
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child."""
        self.close()

    def close(self) -> None:
        """End the child, if there is one."""
        self._child.close()

    def call(self, function: Callable[..., Any], *arguments: object, stop: Stop | None = None) -> Any:
        """Return what a function returns.

        Args:
            function: of a module of ours, so that the child finds it.
            arguments: that can be sent to another process.
            stop: asked whether to stop; None: never.

        Returns:
            Its result.

        Raises:
            BenchError: the function's own; or the child died, or gave no sign of life.
            Stopped: it was asked to stop.
        """
        if not self._origins:
            return function(*arguments)
        returned: list[Event] = []
        task = CallTask(self._label, function, arguments)
        self._child.compute(task, returned.append, stop or StopRequest(), origins=self._origins)
        (result,) = returned
        assert isinstance(result, Returned)
        return result.value
