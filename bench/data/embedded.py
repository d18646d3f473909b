"""Data sets that ship with scikit-learn: digits and two moons."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.data.arrays import stratified
from bench.data.info import DatasetInfo
from bench.data.reading import Arrays, Found


def load_embedded(info: DatasetInfo) -> Found:
    """Make scikit-learn's digits or two moons; the same arrays on every machine."""
    train, test = {"digits": _digits, "two-moons": _two_moons}[info.name]()

    def read(split: str, n: int | None) -> Arrays:
        images, labels = train if split == "train" else test
        return images[:n], labels[:n]

    totals = {"train": len(train[1]), "test": len(test[1])}
    return Found(info.name, "scikit-learn", True, "", Path(), totals, read)


def _digits() -> tuple[Arrays, Arrays]:
    """Split the 1,797 digits into 1,437 and 360, every class in proportion, in a fixed random order."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.RandomState(0).permutation(len(bunch.target))
    images = (bunch.images[order, None] / 16).astype(np.float32)
    labels = bunch.target[order].astype(np.int64)
    test = stratified(labels, 360)
    return (images[~test], labels[~test]), (images[test], labels[test])


def _two_moons() -> tuple[Arrays, Arrays]:
    """Draw 400 + 1,000 points with noise 0.2, scaled into [0.05, 0.95]², each axis by itself.

    The labels of 48 training points, drawn once, are wrong; those of the test points are right. What a network that
    fits every training point does to its boundary is what Figure 1 of Srinivas et al. 2022 is about; size, noise and
    share of wrong labels are ours, the paper names none.

    Returns:
        Points (N, 2, 1, 1) float32 and labels (N,), for training and for testing.
    """
    from sklearn.datasets import make_moons

    points, labels = make_moons(1400, noise=0.2, random_state=0)
    low, high = points.min(0), points.max(0)
    images = (0.05 + 0.9 * (points - low) / (high - low)).astype(np.float32)[:, :, None, None]
    noisy = labels[:400].astype(np.int64)
    wrong = np.random.RandomState(1).permutation(400)[:48]  # `hold_out` draws with 0
    noisy[wrong] = 1 - noisy[wrong]
    return (images[:400], noisy), (images[400:], labels[400:].astype(np.int64))
