"""Load a named data set: look for it, read it, fingerprint it, and never let a copy pass for the original."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.data_facts import FACTS, Facts
from bench.data_layouts import image_folder, npz, parquet
from bench.data_original import fetch, original
from bench.data_reading import Arrays, Found
from bench.errors import BenchError, EnvironmentProblem, UsageError, nearest

log = logging.getLogger("bench.data")


@dataclass(frozen=True)
class Split:
    """Some images of a data set and their labels.

    Attributes:
        images: (N, C, H, W); uint8 stands for pixel = value / 255, float32 is in [0, 1] already.
        labels: (N,) int64.
        fingerprint: SHA-256 over shape, dtype, image bytes and labels of exactly these images.
    """

    images: np.ndarray
    labels: np.ndarray
    fingerprint: str

    @classmethod
    def of(cls, images: np.ndarray, labels: np.ndarray) -> Split:
        """Make a split and its fingerprint; the arrays become read-only."""
        images, labels = np.ascontiguousarray(images), np.ascontiguousarray(labels, np.int64)
        images.setflags(write=False)
        labels.setflags(write=False)
        return cls(images, labels, fingerprint(images, labels))

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, n: int | None) -> Split:
        """Return the first n images with their own fingerprint; all of them if n is None or too large."""
        return self if n is None or n >= len(self) else Split.of(self.images[:n], self.labels[:n])

    def pixels(self) -> np.ndarray:
        """Return the images as float32 in [0, 1]."""
        return self.images.astype(np.float32) / 255 if self.images.dtype == np.uint8 else self.images


@dataclass(frozen=True)
class Dataset:
    """A loaded data set.

    Attributes:
        name: what it is called on the board; only the original bears the original's name.
        original: True only with matching checksums, or for data that scikit-learn makes.
        layout: how it was stored.
        classes: class names in the order of the labels; their number is the model's number of outputs.
        shape: (C, H, W).
        train: the images to train on, empty if they were not asked for.
        test: the images to evaluate on.
        train_total: training images before any limit.
        test_total: test images before any limit.
        note: what a reader of the board must know; "" if nothing.
        location: the folder's name; "" for data without files.
    """

    name: str
    original: bool
    layout: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train: Split
    test: Split
    train_total: int
    test_total: int
    note: str
    location: str

    def describe(self) -> dict[str, Any]:
        """Return what the plan and the manifest say about the data."""
        sides = {"train": (self.train, self.train_total), "test": (self.test, self.test_total)}
        return {
            "name": self.name,
            "original": self.original,
            "layout": self.layout,
            "classes": list(self.classes),
            "shape": list(self.shape),
            **{k: {"n": len(s), "total": total, "fingerprint": s.fingerprint} for k, (s, total) in sides.items()},
            "note": self.note,
        }


def fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
    """Return the SHA-256 of images and labels: shapes, dtypes and bytes (little-endian), nothing else."""
    digest = hashlib.sha256()
    for array in (images, labels):
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{little.shape}{little.dtype.str}".encode())
        digest.update(little.data)
    return digest.hexdigest()


def hold_out(split: Split, n: int, seed: int) -> tuple[Split, Split]:
    """Return (rest, held-out part): n images drawn by the seed, both parts in their old order.

    Raises:
        UsageError: n leaves nothing to train on, or is negative.
    """
    if not 0 <= n < len(split):
        raise UsageError(f"holdout: expected 0 to {len(split) - 1} images, got {n}. Lower it.")
    held = np.zeros(len(split), bool)
    held[np.random.RandomState(seed % 2**32).permutation(len(split))[:n]] = True
    return Split.of(split.images[~held], split.labels[~held]), Split.of(split.images[held], split.labels[held])


def load(
    name: str,
    *,
    data_dir: Path | str | None = None,
    train_limit: int | None = None,
    limit: int | None = None,
    download: bool = True,
    need_train: bool = True,
) -> Dataset:
    """Load a named data set from `data_dir`, the cache folder, or the original's address, in this order.

    Args:
        name: "digits", "two-moons", "cifar10", "cifar100" or "svhn".
        data_dir: looked at first, with its sub-folders.
        train_limit: first N training images; more than there are means all.
        limit: first N test images, likewise.
        download: whether a missing original may be fetched.
        need_train: False leaves the training images unread.

    Raises:
        UsageError: unknown name, a limit below 1, or `data_dir` is no folder.
        IntegrityError: a file under the expected name is not what its name says.
        EnvironmentProblem: no such data here and none can be fetched.
    """
    facts = _facts(name)
    for key, value in (("train-limit", train_limit), ("limit", limit)):
        if value is not None and value < 1:
            raise UsageError(f"--{key}: expected at least 1, got {value}. Leave it out for all images.")
    if data_dir is not None and not Path(data_dir).is_dir():
        raise UsageError(f"--data: expected a folder, got {str(data_dir)!r}, which is none. Check the path.")
    found = _embedded(facts) if not facts.torchvision else _find(facts, data_dir, download)
    test = _read(found, facts, "test", limit)
    train = _read(found, facts, "train", train_limit if need_train else 0)
    where = found.folder.resolve().name if facts.torchvision else ""
    log.info("%s: %s in %s; %d train, %d test images", found.name, found.layout, where, len(train), len(test))
    return Dataset(
        found.name, found.original, found.layout, facts.classes, facts.shape, train, test,
        found.totals["train"], found.totals["test"], found.note, where,
    )  # fmt: skip


def _facts(name: str) -> Facts:
    if name not in FACTS:
        raise UsageError(f"dataset: expected a known data set, got {name!r}. {nearest(name, FACTS)}")
    return FACTS[name]


def _read(found: Found, facts: Facts, split: str, n: int | None) -> Split:
    if n == 0:
        return Split.of(np.empty((0, *facts.shape), np.uint8), np.empty(0, np.int64))
    try:
        return Split.of(*found.read(split, n))
    except OSError as error:
        raise EnvironmentProblem(f"{error.filename}: expected a readable file, got {error.strerror}.") from error


# --- finding --------------------------------------------------------------------------------------------------------

_PROBES: tuple[Callable[[Path, Facts], Found | str | None], ...] = (original, parquet, npz, image_folder)


def cache_folder() -> Path:
    """Return where downloads go: $BENCH_DATA, else ~/.cache/bench/data."""
    return Path(os.environ.get("BENCH_DATA") or Path.home() / ".cache" / "bench" / "data")


def _find(facts: Facts, data_dir: Path | str | None, download: bool) -> Found:
    """Return the first folder that serves; fetch the original if none does."""
    reasons: list[str] = []
    cache = cache_folder()
    for place in (data_dir, cache):
        found = _look(facts, Path(place), reasons) if place is not None and Path(place).is_dir() else None
        if found:
            return found
    looked = f" Looked at: {'; '.join(reasons)}." if reasons else ""
    fetch(facts, cache, allowed=download, looked=looked)
    found = _look(facts, cache, reasons)
    if found is None:
        raise EnvironmentProblem(f"{facts.name}: expected the original in {cache} after the download, got nothing.")
    return found


def _look(facts: Facts, place: Path, reasons: list[str]) -> Found | None:
    """Try every layout on a folder and its sub-folders; the original wins over copies."""
    for probe in _PROBES:
        for folder in _candidates(place, facts.name):
            try:
                found = probe(folder, facts)
            except OSError as error:
                raise EnvironmentProblem(f"{folder}: expected readable files, got {error}. Check its modes.") from error
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
        raise EnvironmentProblem(f"{place}: expected a readable folder, got {error.strerror}.") from error
    digitless = re.compile(rf"{name}(?!\d)")
    yield from sorted(folders, key=lambda p: not digitless.search(re.sub(r"[^a-z0-9]", "", p.name.lower())))


# --- data without files ---------------------------------------------------------------------------------------------


def _embedded(facts: Facts) -> Found:
    """Make scikit-learn's digits or two moons; the same arrays on every machine."""
    train, test = {"digits": _digits, "two-moons": _two_moons}[facts.name]()

    def read(split: str, n: int | None) -> Arrays:
        images, labels = train if split == "train" else test
        return images[:n], labels[:n]

    totals = {"train": len(train[1]), "test": len(test[1])}
    return Found(facts.name, "scikit-learn", True, "", Path(), totals, read)


def _digits() -> tuple[Arrays, Arrays]:
    """Split the 1,797 digits into 1,437 and 360, every class in proportion, in a fixed random order."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.RandomState(0).permutation(len(bunch.target))
    images = (bunch.images[order, None] / 16).astype(np.float32)
    labels = bunch.target[order].astype(np.int64)
    test = _stratified(labels, 360)
    return (images[~test], labels[~test]), (images[test], labels[test])


def _stratified(labels: np.ndarray, n: int) -> np.ndarray:
    """Mark n examples, each class's share rounded by largest remainders, its first ones taken."""
    counts = np.bincount(labels)
    exact = counts * n / len(labels)
    share = np.floor(exact).astype(int)
    share[np.argsort(share - exact, kind="stable")[: n - share.sum()]] += 1
    marked = np.zeros(len(labels), bool)
    for label, k in enumerate(share):
        marked[np.flatnonzero(labels == label)[:k]] = True
    return marked


def _two_moons() -> tuple[Arrays, Arrays]:
    """Draw 1,000 + 1,000 points with noise 0.15 and scale them into [0.05, 0.95]², each axis by itself."""
    from sklearn.datasets import make_moons

    points, labels = make_moons(2000, noise=0.15, random_state=0)
    low, high = points.min(0), points.max(0)
    images = (0.05 + 0.9 * (points - low) / (high - low)).astype(np.float32)[:, :, None, None]
    return (images[:1000], labels[:1000]), (images[1000:], labels[1000:])


# --- what is here ---------------------------------------------------------------------------------------------------


def available(data_dir: Path | str | None = None) -> list[dict[str, Any]]:
    """Say for every known data set what is here, having read one image of each split of it.

    Returns one dict per data set: name, source, version, hyperparameters (none), shape, classes (their number),
    status ("ready", "damaged" or "missing"), found (what serves; "" if nothing does), description (that, or what is
    wrong, for people) and reason (the error that a run without network would end with; "" if ready). Nothing is
    downloaded.
    """
    return [_state(facts, data_dir) for facts in FACTS.values()]


def _state(facts: Facts, data_dir: Path | str | None) -> dict[str, Any]:
    status, found, reason = "ready", "", ""
    try:
        data = load(facts.name, data_dir=data_dir, train_limit=1, limit=1, download=False)
        where = f" in {data.location}" if data.location else ""
        found = f"{data.name} ({data.layout}{where}): {data.train_total} train, {data.test_total} test images"
        description = found
    except EnvironmentProblem as error:
        status, reason, description = "missing", str(error), "not found here; a run that needs it downloads it"
    except BenchError as error:
        status, reason, description = "damaged", str(error), f"damaged: {error}"
    return {
        "name": facts.name, "source": facts.source, "version": 1, "hyperparameters": {},
        "shape": list(facts.shape), "classes": len(facts.classes), "status": status, "found": found,
        "description": description, "reason": reason,
    }  # fmt: skip
