"""NumPy archives: one `.npz` with images and labels of each split."""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from functools import partial
from pathlib import Path

import numpy as np

from bench.core.errors import IntegrityError
from bench.data.arrays import check_levels, shuffled
from bench.data.info import DatasetInfo, class_names
from bench.data.reading import (
    SPLITS,
    Arrays,
    Found,
    check_labels,
    copy_name,
    copy_note,
    damaged,
)

# What zipfile, zlib and numpy raise for damage, an unknown compression (NotImplementedError) and encryption.
_UNREADABLE = (
    zipfile.BadZipFile,
    OSError,
    ValueError,
    EOFError,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
)
_KEYS = ("x_train", "y_train", "x_test", "y_test")


def npz(folder: Path, info: DatasetInfo) -> Found | str | None:
    """Look for an `.npz` with x_train, y_train, x_test, y_test, and perhaps `classes` (names, in label order).

    Pictures are uint8, or floats in [0, 1], as (N, H, W, C), (N, C, H, W), or (N, H, W) where C is 1. Without
    `classes` the labels are taken in the order of the suite's data set, and the note says so.

    Returns:
        What was found; or why no file serves, None where there is no `.npz`.

    Raises:
        IntegrityError: an `.npz` does not parse.
    """
    reason = None
    for path in sorted(folder.glob("*.npz")):
        headers = headers_of(path)
        if not set(_KEYS) <= headers.keys():
            reason = f"{path.name} lacks {next(k for k in _KEYS if k not in headers)}"
            continue
        layouts = {_layout(headers[f"x_{s}"], info.shape) for s in SPLITS}
        if None in layouts or len(layouts) > 1:
            reason = f"{path.name} holds arrays {headers['x_train']}, not images {info.shape}"
            continue
        named = "classes" in headers
        if named and class_names([str(c) for c in array_of(path, "classes")]) != info.classes:
            reason = f"the class names in {path.name} are not those of {info.name}"
            continue
        name = copy_name(folder, "npz")
        note = copy_note(name, "an npz copy", info)
        note += "" if named else f"; it names no classes, its labels were taken in the order of {info.name}"
        totals = {s: headers[f"x_{s}"][0] for s in SPLITS}
        return Found(name, "npz", False, note, folder, totals, partial(_read_npz, path, info))
    return reason


def headers_of(path: Path) -> dict[str, tuple[int, ...]]:
    """Return name to shape of every array, from the headers alone."""
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as stream:
                    version = np.lib.format.read_magic(stream)
                    header = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = header(stream)
                    size = archive.getinfo(member).file_size - stream.tell()
                    if dtype.kind != "O" and math.prod(shape) * dtype.itemsize != size:
                        damaged(path, f"the {math.prod(shape)} values of {member}", f"{size} bytes")
                    shapes[member.removesuffix(".npy")] = shape
    except _UNREADABLE as error:
        damaged(path, "an npz archive", error)
    return shapes


def _layout(array: tuple[int, ...], shape: tuple[int, int, int]) -> str | None:
    """Return how the axes of an array of pictures lie, None if they do not fit the data set."""
    channels, height, width = shape
    known: dict[tuple[int, ...], str] = {(height, width, channels): "NHWC", shape: "NCHW"}
    if channels == 1:
        known[(height, width)] = "NHW"
    return known.get(tuple(array[1:])) if array else None


def array_of(path: Path, key: str) -> np.ndarray:
    """Return an array of an archive.

    Raises:
        IntegrityError: it is damaged, or holds pickled objects.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[key]
    except _UNREADABLE as error:
        damaged(path, f"an array {key} without pickles", error)


def _read_npz(path: Path, info: DatasetInfo, split: str, n: int | None) -> Arrays:
    """Return images (n, C, H, W) and labels (n,) of a split.

    Raises:
        IntegrityError: the arrays do not fit together, or their values are out of range or on another scale.
    """
    images, labels = array_of(path, f"x_{split}"), array_of(path, f"y_{split}").reshape(-1)
    where = f"{path}, {split}"
    if len(images) != len(labels):
        raise IntegrityError(
            f"{where}: expected as many labels as images, got {len(labels)} for {len(images)}. Correct the file."
        )
    labels = check_labels(labels, len(info.classes), where)
    order = shuffled(len(labels), n)
    images = images[order]
    if images.dtype == np.uint8:
        check_levels(where, images, IntegrityError)
    else:
        images = unit_floats(images, order, where)
    axes = {"NHWC": (0, 3, 1, 2), "NCHW": (0, 1, 2, 3), "NHW": None}[_layout(images.shape, info.shape) or "NHW"]
    images = images[:, None] if axes is None else images.transpose(axes)
    return np.ascontiguousarray(images), labels[order]


def unit_floats(images: np.ndarray, order: np.ndarray, where: str) -> np.ndarray:
    """Return images as float32, checked to lie in [0, 1]."""
    if images.dtype.kind != "f":
        raise IntegrityError(f"{where}: expected uint8 or floats in [0, 1], got {images.dtype}. Convert the pictures.")
    inside = ((images >= 0) & (images <= 1)).reshape(len(images), -1).all(1)  # NaN is not inside
    if not inside.all():
        index = int(order[np.flatnonzero(~inside)[0]])
        raise IntegrityError(f"{where}: expected pixels in [0, 1], got others at index {index}. Divide by 255?")
    return images.astype(np.float32)
