"""How far an epoch or a chunk is, said a few times per second while it is computed."""

from __future__ import annotations

import time
from typing import Final

from torch import Tensor

from bench.core.ticks import Tick
from bench.core.torch_state import whole_batch
from bench.running.tasks import Advance, Emit

SECONDS: Final = 0.5  # between two events


class Pace:
    """Counts the steps of an epoch, or the passes of a chunk.

    Args:
        emit: called with each event.
        steps: of an epoch; 0 for a chunk.
    """

    def __init__(self, emit: Emit, steps: int = 0) -> None:
        self._emit, self._steps = emit, steps
        self._said = time.monotonic()
        self._tick = Tick("", 0, steps)
        self._count = 0

    def begin(self) -> None:
        """Begin the next epoch or chunk."""
        self._tick, self._count = Tick("", 0, self._steps), 0

    def step(self) -> None:
        """Say that a training step is done."""
        self._count += 1
        self._tick = Tick("step", min(self._count, self._steps), self._steps)
        self._say(0)

    def passed(self, logits: Tensor) -> None:
        """Say that images have passed forward.

        Args:
            logits: of them, (…, K).
        """
        whole = whole_batch(logits)
        self._count += whole.numel() // whole.shape[-1]
        self._say(self._count)

    def tick(self, tick: Tick) -> None:
        """Take the stage of a computation.

        Args:
            tick: what it has said of itself.
        """
        self._tick = tick
        self._say(self._count)

    def _say(self, forwards: int) -> None:
        now = time.monotonic()
        if now - self._said >= SECONDS:
            self._said = now
            self._emit(Advance(self._tick.stage, self._tick.done, self._tick.of, forwards))
