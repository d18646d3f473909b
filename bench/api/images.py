"""Images and labels as people hand them over: tensors, arrays, lists, data sets, loaders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from bench.core.errors import UsageError
from bench.data.arrays import check_levels
from bench.data.split import Split

# (images, labels); or a DataLoader of such batches; or a Dataset, or sequence, of (image, label).
Data: TypeAlias = "tuple[Any, Any] | DataLoader[Any] | Dataset[Any] | Sequence[Any]"
_FORMS = "a pair (images, labels), a DataLoader, or a Dataset of (image, label)"


def read_data(where: str, data: Data, limit: int | None) -> Split:
    """Return images and labels, in the order in which they are given, as a split.

    Args:
        where: what an error message begins with.
        data: a pair of images (N, C, H, W) and labels (N,), as tensors, arrays or nested lists; a DataLoader; a Dataset
            or a list of (image (C, H, W), label). Images are float in [0, 1], or uint8 from 0 to 255.
        limit: first N images; no more are read.

    Raises:
        UsageError: none of these, no images, pixels or labels out of range.
    """
    images, labels = _pair(where, data, limit)
    images, labels = images[:limit], labels[:limit]
    if images.ndim != 4 or labels.shape != (len(images),):
        raise UsageError(
            f"{where}: expected images (N, C, H, W) and labels (N,), got {images.shape} and {labels.shape}. "
            "Reshape them."
        )
    if not len(images):
        raise UsageError(f"{where}: expected at least one image, got none. Pass some.")
    return Split.of(_checked_pixels(where, images), _checked_labels(where, labels))


def _pair(where: str, data: Data, limit: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels as arrays, whatever they come in."""
    if isinstance(data, tuple | list) and len(data) == 2 and not _is_item(data[0]):
        return _array(where, data[0]), _array(where, data[1])
    if isinstance(data, DataLoader):
        batches = list(_batches(where, data, limit))
        images, labels = zip(*batches, strict=True) if batches else ((np.zeros((0, 1, 1, 1)),), (np.zeros(0, int),))
        return np.concatenate(images), np.concatenate(labels)
    if isinstance(data, dict | str | Tensor | np.ndarray) or not isinstance(data, Dataset | list | tuple):
        raise UsageError(f"{where}: expected data as {_FORMS}, got {type(data).__name__}. Pass one of these.")
    items = [_item(where, item) for item in islice(_items(data), limit)]
    if not items:
        return np.zeros((0, 1, 1, 1)), np.zeros(0, int)
    return np.stack([image for image, _ in items]), np.array([label for _, label in items])


def _is_item(value: object) -> bool:
    """Return whether a value is one (image, label), so that a list of two of them is no (images, labels)."""
    return isinstance(value, tuple | list) and len(value) == 2 and np.ndim(value[1]) == 0 and np.ndim(value[0]) == 3


def _items(data: Any) -> Iterable[Any]:
    """Yield the items of a data set: by number where it has a length, else as it iterates."""
    return (data[i] for i in range(len(data))) if hasattr(data, "__len__") else data


def _batches(where: str, loader: DataLoader[Any], limit: int | None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the batches of a loader until there are `limit` images."""
    read = 0
    for batch in loader:
        if not isinstance(batch, tuple | list) or len(batch) < 2:
            raise UsageError(
                f"{where}: expected batches (images, labels) from the DataLoader, got {type(batch).__name__}. "
                "Use a Dataset of (image, label)."
            )
        images, labels = _array(where, batch[0]), _array(where, batch[1])
        yield images, labels
        read += len(images)
        if limit is not None and read >= limit:
            return


def _item(where: str, item: object) -> tuple[np.ndarray, np.ndarray]:
    """Return one image (C, H, W) and its label."""
    if not isinstance(item, tuple | list) or len(item) < 2:
        raise UsageError(f"{where}: expected items (image, label), got {type(item).__name__}. Wrap the Dataset.")
    image = item[0]
    if not isinstance(image, Tensor | np.ndarray | list):
        raise UsageError(
            f"{where}: expected images as tensors, got {type(image).__name__}. "
            "Give the Dataset transform=transforms.ToTensor()."
        )
    return _array(where, image), _array(where, item[1])


def _array(where: str, values: Any) -> np.ndarray:
    """Return values as an array; half precision becomes float32."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()
    if isinstance(values, list | tuple) and any(isinstance(v, Tensor) for v in values):
        return np.stack([_array(where, v) for v in values]) if values else np.zeros(0)
    try:
        return np.asarray(values)
    except ValueError as error:
        raise UsageError(f"{where}: expected images of one size, got different ones: {error}. Resize them.") from error


def _checked_pixels(where: str, images: np.ndarray) -> np.ndarray:
    """Return images as uint8, or as float32 in [0, 1].

    Raises:
        UsageError: out of range, not finite, or uint8 with other levels than 0 to 255.
    """
    if images.dtype == np.uint8:
        check_levels(where, images)
        return images
    if images.dtype.kind not in "biuf":
        raise UsageError(f"{where}: expected pixels as numbers in [0, 1], got {images.dtype}. Convert them.")
    images = images.astype(np.float32)
    low, high = images.min(), images.max()
    if not (low >= 0.0 and high <= 1.0):
        raise UsageError(
            f"{where}: expected pixels in [0, 1], got [{low!s}, {high!s}]. "
            "Put normalisation inside the model (bench.wrap has mean and std) and pass unnormalised images."
        )
    return images


def _checked_labels(where: str, labels: np.ndarray) -> np.ndarray:
    """Return labels as int64.

    Raises:
        UsageError: no whole numbers, or negative.
    """
    if not np.issubdtype(labels.dtype, np.integer):
        raise UsageError(f"{where}: expected labels 0, 1, …, got {labels.dtype}. Pass class numbers as integers.")
    if len(bad := np.flatnonzero(labels < 0)):
        raise UsageError(
            f"{where}: expected labels 0, 1, …, got {labels[bad[0]]} at position {bad[0]}. Pass class numbers."
        )
    return labels.astype(np.int64)
