"""training.csv: the training curves, one line per epoch of every run."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from typing import Any, Final

from bench.reports.board.model import Board
from bench.reports.exports.csv import csv_cell
from bench.reports.exports.registry import export

FIRST: Final = ("defense", "seed", "epoch")


@export("training.csv")
def training_csv(board: Board) -> str | None:
    """Return training.csv: defense, seed, epoch and whatever was logged; None where nothing was.

    A term of the objective has the column `term_<name>`. Times are those of the machine that trained.
    """
    lines = [
        {"defense": defense, "seed": seed, **dict(_flat(record))}
        for (defense, seed), log in board.logs.items()
        for record in log
    ]
    if not lines:
        return None
    found = sorted({name for line in lines for name in line} - set(FIRST))
    names = [*FIRST, *found]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(csv_cell(name) for name in names)
    for line in lines:
        writer.writerow(csv_cell(line.get(name)) for name in names)
    return stream.getvalue()


def _flat(record: Mapping[str, Any]) -> Iterator[tuple[str, int | float | str | None]]:
    """Yield the numbers and texts of a record of the log, those of a group with its name in front."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from ((f"{name.removesuffix('s')}_{key}", part) for key, part in value.items())
        elif value is None or isinstance(value, int | float | str):
            yield name, value
