"""What a running command says to machines: one JSON object per line (docs/progress.md).

Each has `event`, its name, and `time`, seconds since the epoch. A field that is added changes nothing for readers; one
that is removed or changes its meaning raises `FORMAT`.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import ClassVar, Final, TypeAlias

FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Began:
    """The first event of a command: what is computed, where, and how much of it is stored already.

    Attributes:
        suite: name of the suite.
        data: name of the data.
        device: device kind.
        out: the result folder.
        cells: cells of the plan.
        cached: how many of them are stored already.
        processes: how many compute.
        format: of the events.
    """

    event: ClassVar[str] = "began"
    suite: str
    data: str
    device: str
    out: str
    cells: int
    cached: int
    processes: int
    format: int = FORMAT


@dataclass(frozen=True, slots=True)
class CellBegan:
    """A cell is being computed.

    Attributes:
        cell: its title.
        done: epochs of a training, or chunks of an evaluation, that are stored already.
        of: of how many.
    """

    event: ClassVar[str] = "cell_began"
    cell: str
    done: int
    of: int


@dataclass(frozen=True, slots=True)
class CellProgress:
    """How far a cell is.

    Attributes:
        cell: its title.
        done: epochs or chunks that are stored.
        of: of how many.
        stage: of the computation, e.g. "apgd-t"; "" where it has none.
        stage_done: images, batches or steps of the stage.
        stage_of: of how many.
        share: of the cell that is done, in [0, 1]; None where it is not known.
        note: e.g. the loss.
    """

    event: ClassVar[str] = "cell_progress"
    cell: str
    done: int
    of: int
    stage: str = ""
    stage_done: int = 0
    stage_of: int = 0
    share: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class CellDone:
    """A cell is stored.

    Attributes:
        cell: its title.
        seconds: by the clock, of the process that computed it; processes overlap, so these do not add up to the run's.
        note: e.g. the training accuracy.
        done: cells of the plan that are stored now.
        of: cells of the plan.
        left: seconds until all are and the board is written, estimated; None where nothing true can be said.
    """

    event: ClassVar[str] = "cell_done"
    cell: str
    seconds: float
    note: str = ""
    done: int = 0
    of: int = 0
    left: float | None = None


@dataclass(frozen=True, slots=True)
class CellFailed:
    """A cell has failed; the others go on.

    Attributes:
        cell: its title.
        cause: in one line.
    """

    event: ClassVar[str] = "cell_failed"
    cell: str
    cause: str


@dataclass(frozen=True, slots=True)
class Said:
    """A line for the user.

    Attributes:
        text: the line.
    """

    event: ClassVar[str] = "log"
    text: str


@dataclass(frozen=True, slots=True)
class Writing:
    """The cells are done; the board is being written.

    Attributes:
        stage: "reading models", "drawing", "writing files"; "" as it begins.
        done: models, drawings or files.
        of: of how many.
        left: seconds until the command is over, estimated.
    """

    event: ClassVar[str] = "writing"
    stage: str = ""
    done: int = 0
    of: int = 0
    left: float | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """The last event of a command.

    Attributes:
        code: its exit code.
        done: cells of the plan that are stored.
        of: cells of the plan.
        failed: how many have failed.
        seconds: that the command took by the clock.
        page: the board's page; "" where none was written.
    """

    event: ClassVar[str] = "ended"
    code: int
    done: int
    of: int
    failed: int
    seconds: float
    page: str


Event: TypeAlias = Began | CellBegan | CellProgress | CellDone | CellFailed | Said | Writing | Ended
EVENTS: Final[tuple[type[Event], ...]] = (
    *(Began, CellBegan, CellProgress, CellDone, CellFailed),
    *(Said, Writing, Ended),
)


def as_line(event: Event) -> str:
    """Return an event as its line, without the line's end."""
    return json.dumps({"event": event.event, "time": round(time.time(), 3), **asdict(event)})


def from_line(line: str) -> Event | None:
    """Return the event of a line; None for a line that is none, as others may print."""
    try:
        facts = json.loads(line)
        name, _ = facts.pop("event"), facts.pop("time")
        kind = next(one for one in EVENTS if one.event == name)
        return kind(**facts)
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration):
        return None
