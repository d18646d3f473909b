"""The data set of a suite: a known name, or a folder of one's own with the table `[data]`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from bench.core.arguments import LARGEST_INT
from bench.core.errors import UsageError, did_you_mean
from bench.data.info import DATASETS, DatasetInfo
from bench.data.own import OwnData, describe, locate

MOST_PIXELS: Final = 4096  # of a side
_Side = Annotated[int, Field(ge=1, le=MOST_PIXELS)]


class DataTable(BaseModel):
    """The table `[data]`: how a folder of one's own is read.

    Attributes:
        test: images that are held out for testing where the folder has no test part: a share below 1, or a number.
        size: side of the square, or [height, width], to which pictures are scaled and cut.
        channels: 1 (grey) or 3 (colour), whatever the pictures are.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    test: Annotated[float, Field(gt=0, le=LARGEST_INT, allow_inf_nan=False)] | None = None
    size: _Side | Annotated[list[_Side], Field(min_length=2, max_length=2)] | None = None
    channels: Literal[1, 3] | None = None


def data_of_suite(
    where: str, dataset: str, table: DataTable | None, folder: Path, data_dir: Path | str | None
) -> tuple[DatasetInfo, OwnData | None]:
    """Return what a suite's data set is; of a folder of one's own, headers are read.

    Args:
        where: what an error message begins with, the suite's file.
        dataset: the key `dataset`: a known name, a path, or the name of a folder.
        table: `[data]`; None: there is none.
        folder: the suite file's own, which paths are relative to.
        data_dir: the folder of `--data`; None: there is none.

    Returns:
        Name, image size and classes; and the folder, None for a named data set.

    Raises:
        UsageError: neither a known data set nor a folder, or a folder that cannot be read as the suite says.
        IntegrityError, MachineError: it is damaged, or cannot be read.
    """
    if dataset in DATASETS:
        if table is not None:
            raise UsageError(
                f"{where}: data: expected no table [data] for {dataset}, which has its own size and parts, got one. "
                f'Remove it, or write dataset = "./{dataset}" for a folder of that name.'
            )
        return DATASETS[dataset], None
    found = locate(dataset, _places(folder, data_dir))
    if found is None:
        looked = " and ".join(dict.fromkeys(repr(str(place.resolve())) for place in _places(folder, data_dir)))
        raise UsageError(
            f"{where}: dataset: expected a known data set, got {dataset!r}. {did_you_mean(dataset, DATASETS)} "
            f"Or name a folder or .npz file of your own; looked for in {looked}."
        )
    table = table or DataTable()
    size = (table.size, table.size) if isinstance(table.size, int) else table.size and (table.size[0], table.size[1])
    own = OwnData(found, table.test or 0, size or None, table.channels)
    return describe(own), own


def _places(folder: Path, data_dir: Path | str | None) -> Iterator[Path]:
    """Yield the folders in which a data set may lie, in their order."""
    yield folder
    yield Path()
    if data_dir is not None:
        yield Path(data_dir)
