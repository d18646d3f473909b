"""Images, labels and their fingerprint: what an evaluation or a training is computed on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from bench.core.errors import UsageError


@dataclass(frozen=True)
class Split:
    """Some images of a data set and their labels.

    Attributes:
        images: (N, C, H, W); uint8 (pixel = value / 255), or float32 in [0, 1].
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


def on_held_out(dataset: Dataset, n: int) -> Dataset:
    """Return a data set in which n training images, always the same ones, take the place of the test images.

    It has another name, because nothing that is measured on it is a result on the test images.

    Args:
        dataset: with its training images.
        n: how many are kept apart.

    Raises:
        UsageError: n leaves nothing to train on.
    """
    train, held = hold_out(dataset.train, n, seed=0)
    note = f"measured on {n} training images that were kept apart, not on the test images of {dataset.name}"
    return replace(
        dataset,
        name=f"{dataset.name}-held-out",
        original=False,
        train=train,
        test=held,
        test_total=n,
        note="; ".join(filter(None, (dataset.note, note))),
    )
