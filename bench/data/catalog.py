"""Find a data set by name, load it, and say which ones are available."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from bench.core.cache_folder import cache_folder
from bench.core.errors import BenchError, IntegrityError, MachineError, UsageError, did_you_mean
from bench.data.download import fetch
from bench.data.embedded import load_embedded
from bench.data.image_folder import image_folder
from bench.data.info import DATASETS, DatasetInfo
from bench.data.npz import npz
from bench.data.own import OwnData, load_own
from bench.data.parquet import parquet
from bench.data.reading import Found
from bench.data.split import Dataset, Split
from bench.data.torchvision_files import original

log = logging.getLogger("bench.data.catalog")


def load(
    name: str,
    *,
    data_dir: Path | str | None = None,
    train_limit: int | None = None,
    limit: int | None = None,
    download: bool = True,
    need_train: bool = True,
    own: OwnData | None = None,
) -> Dataset:
    """Load a named data set from `data_dir`, the cache folder, or the original's address, in this order.

    Args:
        name: "digits", "two-moons", "cifar10", "cifar100" or "svhn"; of no account with `own`.
        data_dir: looked at first, with its sub-folders.
        train_limit: first N training images; more than there are means all.
        limit: first N test images, likewise.
        download: whether a missing original may be fetched.
        need_train: False leaves the training images unread.
        own: a folder of one's own, which is loaded in the place of a named data set.

    Returns:
        The data set, named after what was found, with its fingerprints.

    Raises:
        UsageError: unknown name, a limit below 1, or `data_dir` is no folder.
        IntegrityError: a file under the expected name is not what its name says.
        MachineError: no such data here and none can be fetched.
    """
    info = None if own else _dataset_info(name)
    for key, value in (("train-limit", train_limit), ("limit", limit)):
        if value is not None and value < 1:
            raise UsageError(f"--{key}: expected at least 1, got {value}. Leave it out for all images.")
    if data_dir is not None and not Path(data_dir).is_dir():
        raise UsageError(f"--data: expected a folder, got {str(data_dir)!r}, which is none. Check the path.")
    if info is None:
        assert own is not None  # one of them is
        return load_own(own, train_limit=train_limit, limit=limit, need_train=need_train)
    found = load_embedded(info) if not info.torchvision else _find(info, data_dir, download)
    test = _read(found, info, "test", limit)
    train = _read(found, info, "train", train_limit if need_train else 0)
    where = found.folder.resolve().name if info.torchvision else ""
    log.info("%s: %s in %s; %d train, %d test images", found.name, found.layout, where, len(train), len(test))
    return Dataset(
        name=found.name,
        original=found.original,
        layout=found.layout,
        classes=info.classes,
        shape=info.shape,
        train=train,
        test=test,
        train_total=found.totals["train"],
        test_total=found.totals["test"],
        note=found.note,
        location=where,
    )


def _dataset_info(name: str) -> DatasetInfo:
    if name not in DATASETS:
        raise UsageError(f"dataset: expected a known data set, got {name!r}. {did_you_mean(name, DATASETS)}")
    return DATASETS[name]


def _read(found: Found, info: DatasetInfo, split: str, n: int | None) -> Split:
    if n == 0:
        return Split.of(np.empty((0, *info.shape), np.uint8), np.empty(0, np.int64))
    if not found.totals[split]:
        raise IntegrityError(f"{found.folder}: expected {split} images, got none. Replace or remove the files.")
    try:
        return Split.of(*found.read(split, n))
    except OSError as error:
        raise MachineError(f"{error.filename}: expected a readable file, got {error.strerror}.") from error


_PROBES: tuple[Callable[[Path, DatasetInfo], Found | str | None], ...] = (original, parquet, npz, image_folder)


def _find(info: DatasetInfo, data_dir: Path | str | None, download: bool) -> Found:
    """Return the first folder that serves; fetch the original if none does."""
    reasons: list[str] = []
    cache = cache_folder()
    for place in (data_dir, cache):
        found = _look(info, Path(place), reasons) if place is not None and Path(place).is_dir() else None
        if found:
            return found
    looked = f" Looked at: {'; '.join(reasons)}." if reasons else ""
    fetch(info, cache, allowed=download, looked=looked)
    found = _look(info, cache, reasons)
    if found is None:
        raise MachineError(f"{info.name}: expected the original in {cache} after the download, got nothing.")
    return found


def _look(info: DatasetInfo, place: Path, reasons: list[str]) -> Found | None:
    """Try every layout on a folder and its sub-folders; the original wins over copies."""
    for probe in _PROBES:
        for folder in _candidates(place, info.name):
            try:
                found = probe(folder, info)
            except OSError as error:
                raise MachineError(f"{folder}: expected readable files, got {error}. Check its modes.") from error
            if isinstance(found, Found):
                return found
            if found:
                reasons.append(f"{folder.name}, where {found}")
    return None


def _candidates(place: Path, name: str) -> Iterator[Path]:
    """Yield a folder and its sub-folders, those whose name holds the data set's first."""
    yield place
    try:
        folders = sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))
    except OSError as error:
        raise MachineError(f"{place}: expected a readable folder, got {error.strerror}.") from error
    digitless = re.compile(rf"{name}(?!\d)")
    yield from sorted(folders, key=lambda p: not digitless.search(re.sub(r"[^a-z0-9]", "", p.name.lower())))


@dataclass(frozen=True, slots=True)
class Availability:
    """What of a known data set is on this machine.

    Attributes:
        name: the name in suites.
        source: the paper or package it comes from.
        shape: (C, H, W).
        classes: number of classes.
        status: whether a run could use it now.
        found: what serves, "" if nothing does.
        description: that, or what is wrong, for people.
        reason: the error that a run without network would end with; "" if ready.
    """

    name: str
    source: str
    shape: tuple[int, int, int]
    classes: int
    status: Literal["ready", "damaged", "missing"]
    found: str
    description: str
    reason: str


def available(data_dir: Path | str | None = None) -> list[Availability]:
    """Return the state of every known data set on this machine. One image of each split is read, none downloaded.

    Args:
        data_dir: looked at first; None: the cache folder alone.
    """
    return [_availability(info, data_dir) for info in DATASETS.values()]


def _availability(info: DatasetInfo, data_dir: Path | str | None) -> Availability:
    status: Literal["ready", "damaged", "missing"] = "ready"
    found = reason = ""
    try:
        data = load(info.name, data_dir=data_dir, train_limit=1, limit=1, download=False)
        where = f" in {data.location}" if data.location else ""
        found = f"{data.name} ({data.layout}{where}): {data.train_total} train, {data.test_total} test images"
        description = found
    except MachineError as error:
        status, reason, description = "missing", str(error), "not found here; a run that needs it downloads it"
    except BenchError as error:
        status, reason, description = "damaged", str(error), f"damaged: {error}"
    return Availability(
        name=info.name,
        source=info.source,
        shape=info.shape,
        classes=len(info.classes),
        status=status,
        found=found,
        description=description,
        reason=reason,
    )
