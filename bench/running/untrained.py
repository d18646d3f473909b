"""Build the untrained network of a third party's defense while it is planned.

What its factory loads and reads belongs to the key of the training, and a network that cannot be stored is refused
before anything is computed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from bench.core.printed import printed_to_stderr
from bench.core.process_state import process_state_kept
from bench.core.processes import deadly
from bench.core.records import Defense
from bench.core.user_code import LoadedCode, recorded_call
from bench.store.weights import pack_state
from bench.training.loop import TrainJob


class Builds:
    """The networks of a plan, each defense, hyper-parameters and backbone built once.

    Args:
        seconds: within which a factory must come back from a first call, in a copy of this process (`deadly`); None:
            it is called here at once.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = seconds
        self._done: dict[str, LoadedCode | None] = {}
        self._defects: dict[str, str] = {}

    def of(self, job: TrainJob) -> LoadedCode | None:
        """Build a job's network, once for all seeds.

        A factory that fails does so again when its training begins, and is reported there.

        Args:
            job: the training.

        Returns:
            What its factory loaded and read; None for a defense of ours, and for a factory that does not come back.

        Raises:
            UsageError: the network cannot be stored.
        """
        if _is_ours(job.defense):
            return None
        described = _described(job)
        if described not in self._done:
            end = "" if self._seconds is None else deadly(job.build, self._seconds)
            if end:
                self._defects[described] = (
                    f"defense {job.defense.name}: expected a factory that returns a network, got {end}. Fix its code."
                )
            self._done[described] = None if end else _build(job)
        return self._done[described]

    def defect_of(self, job: TrainJob) -> str:
        """Return why a job's factory does not come back; "" if it does, or was not called."""
        return self._defects.get(_described(job), "")


def _described(job: TrainJob) -> str:
    return repr((job.defense.name, sorted(job.hyperparameters.items()), job.backbone))


@contextlib.contextmanager
def recorded_factory(defense: Defense) -> Iterator[LoadedCode | None]:
    """Record what a defense's factory loads and reads in the block, see `recorded_call`; None for a defense of ours.

    Args:
        defense: the registered defense.

    Yields:
        The record, complete after the block.
    """
    if _is_ours(defense):
        yield None
        return
    with recorded_call(defense.function) as record:
        yield record


def _is_ours(defense: Defense) -> bool:
    return defense.function.__module__.startswith("bench.")


def _build(job: TrainJob) -> LoadedCode | None:
    """Build one network under recording, and see that it can be stored."""
    model: nn.Module | None = None
    with contextlib.ExitStack() as held:
        held.enter_context(printed_to_stderr())
        held.enter_context(process_state_kept())
        record = held.enter_context(recorded_factory(job.defense))
        with contextlib.suppress(Exception, SystemExit):
            model = job.build()
    if model is not None:
        pack_state(model)
    return record
