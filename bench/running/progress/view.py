"""The state of a running command as a display shows it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from bench.running.progress.estimate import UnderWay


@dataclass
class CellView:
    """A cell that is being computed, by whichever process.

    Attributes:
        title: of its job.
        done: epochs of a training, or chunks of an evaluation, that are stored.
        of: of how many.
        stage: of the computation, e.g. "apgd-t"; "" where it has none.
        stage_done: images, batches or steps of the stage.
        stage_of: of how many.
        share: of the cell that is done, in [0, 1]; None where it is not known.
        note: e.g. the loss.
        began: when it was begun in this run, in seconds of the monotonic clock.
        stored: share of it that was stored before.
    """

    title: str
    done: int = 0
    of: int = 0
    stage: str = ""
    stage_done: int = 0
    stage_of: int = 0
    share: float | None = None
    note: str = ""
    began: float = field(default_factory=time.monotonic)
    stored: float = 0.0

    @property
    def seconds(self) -> float:
        """Seconds since it was begun."""
        return time.monotonic() - self.began

    @property
    def position(self) -> str:
        """How far it is, in words: "apgd-t 31/64", "epoch 3/30", "2/5"."""
        if self.title.startswith("train "):
            return f"epoch {min(self.done + 1, self.of)}/{self.of}"
        if self.stage or self.stage_of:
            return f"{self.stage} {self.stage_done:,}/{self.stage_of:,}".strip()
        return f"{self.done:,}/{self.of:,}" if self.of > 1 else ""

    def under_way(self) -> UnderWay:
        """Return the same for the estimate of the time that is left."""
        left = 1.0 - self.stored
        share = (self.share - self.stored) / left if self.share is not None and left > 0 else 0.0
        return UnderWay(self.seconds, min(max(share, 0.0), 1.0), left)


@dataclass(frozen=True)
class Overall:
    """How far the run is.

    Attributes:
        done: cells that are stored.
        of: cells of the plan.
        left: seconds that are left, estimated; None where nothing true can be said.
        cells: those that are being computed.
    """

    done: int
    of: int
    left: float | None
    cells: tuple[CellView, ...]
