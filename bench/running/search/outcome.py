"""What a search found: every trial, the chosen ones, and the command that measures those on test images."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.config.search_space import Space
from bench.core.files import write_text
from bench.reports.board.model import Board, Row
from bench.running.search.objective import Objective

FRESH = 3  # seeds of the command that measures the choice on test images


@dataclass(frozen=True)
class Trial:
    """One setting of a defense.

    Attributes:
        defense: its spec.
        values: column to its value on the held-out images, mean over seeds; None where it could not be measured.
        seconds: CPU or device time of a training.
        eligible: whether it has every value, and none below its floor.
    """

    defense: str
    values: Mapping[str, float | None]
    seconds: float | None
    eligible: bool


@dataclass(frozen=True)
class Searched:
    """What became of one defense.

    Attributes:
        space: as written.
        trials: in the order they were drawn.
        chosen: spec of the best eligible trial, the first one of equals; "" where none is eligible.
    """

    space: str
    trials: tuple[Trial, ...]
    chosen: str


def searched(board: Board, spaces: Mapping[Space, Sequence[str]], sought: Objective) -> tuple[Searched, ...]:
    """Choose the best trial of each defense.

    Args:
        board: of the held-out images.
        spaces: each with the specs that were tried.
        sought: what counts.

    Returns:
        One per space, in their order.
    """
    rows = {row.defense: row for row in board.rows}
    found = []
    for space, specs in spaces.items():
        trials = tuple(_trial(spec, rows.get(spec), sought) for spec in specs)
        eligible = [trial for trial in trials if trial.eligible]
        sign = 1 if sought.higher else -1
        best = max(eligible, key=lambda trial: sign * (trial.values[sought.by] or 0.0), default=None)
        found.append(Searched(space.text, trials, best.defense if best else ""))
    return tuple(found)


def _trial(spec: str, row: Row | None, sought: Objective) -> Trial:
    names = (sought.by, *(name for name in sought.floors if name != sought.by))
    cells = {} if row is None or row.incomplete else row.cells
    values = {name: _known(cells[name].value) if name in cells else None for name in names}
    measured = all(value is not None for value in values.values())
    above = measured and all((values[name] or 0.0) >= floor for name, floor in sought.floors.items())
    return Trial(spec, values, None if row is None else row.train_seconds, above)


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def fresh_command(suite: str, found: Sequence[Searched], seeds: Sequence[int], options: Sequence[str]) -> str:
    """Return the command that trains the chosen settings with new seeds on all training images, and tests them.

    Args:
        suite: as it was named.
        found: what was chosen.
        seeds: of the search, which are not used again.
        options: further ones that both commands share.
    """
    first = max(seeds) + 1
    fresh = ",".join(str(seed) for seed in range(first, first + FRESH))
    words = ["python", "-m", "bench", "run", "--suite", suite, *options]
    words += [word for defense in found if defense.chosen for word in ("--defense", defense.chosen)]
    return shlex.join([*words, "--seeds", fresh])


def table(found: Sequence[Searched], sought: Objective) -> Iterator[str]:
    """Yield the lines of a Markdown table: every trial, the chosen ones in bold."""
    names = (sought.by, *(name for name in sought.floors if name != sought.by))
    yield f"| trial | {' | '.join(names)} | CPU or device seconds |"
    yield f"|---|{'---:|' * (len(names) + 1)}"
    for defense in found:
        for trial in defense.trials:
            values = [_number(trial.values[name]) for name in names]
            name = f"**`{trial.defense}`**" if trial.defense == defense.chosen else f"`{trial.defense}`"
            yield f"| {name} | {' | '.join(values)} | {_number(trial.seconds)} |"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def write(board: Board, out: Path, found: Sequence[Searched], sought: Objective, command: str) -> None:
    """Write search.json and search.md.

    Args:
        board: of the held-out images.
        out: the result folder.
        found: what was tried and chosen.
        sought: what counted.
        command: that measures the choice on test images.
    """
    images = max((column.images for column in board.columns if column.name == sought.by), default=0)
    record = {
        "by": sought.by,
        "at_least": dict(sought.floors),
        "held_out_images": images,
        "defenses": [asdict(defense) for defense in found],
        "command": command,
    }
    write_text(out / "search.json", json.dumps(record, indent=2) + "\n")
    side = "largest" if sought.higher else "smallest"
    floors = "".join(f", {name} at least {value:g}" for name, value in sought.floors.items())
    title = f"Chosen by the {side} {sought.by} on {images:,} held-out training images{floors}; no test image was used."
    lines = ("# Search", "", title, "", *table(found, sought), "", f"    {command}", "")
    write_text(out / "search.md", "\n".join(lines))
