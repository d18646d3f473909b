"""Read copies of a named data set: Hugging Face parquet, npz, ImageFolder. Each probe looks at one folder.

A probe returns `Found` if the folder serves, a sentence if the folder has this layout but does not serve (it goes
into the error when nothing else does), and None if the folder does not have the layout. A file with the expected
name that does not parse is never passed over: it raises.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.data_facts import Facts, class_names
from bench.data_reading import (
    SPLITS,
    Arrays,
    Found,
    check_labels,
    copy_name,
    copy_note,
    damaged,
    decode,
    look_at,
    wrong_size,
)
from bench.errors import IntegrityError

# --- Hugging Face parquet -------------------------------------------------------------------------------------------

# Folders in which the hub's own copies keep their files.
_INNER = (".", "data", "plain_text", "cropped_digits")


def parquet(folder: Path, facts: Facts) -> Found | str | None:
    """Look for `train-*.parquet` and `test-*.parquet` with `img`/`image` structs, labels and class names.

    Raises:
        IntegrityError: a file with such a name does not parse, or a shard is missing.
    """
    shards: dict[str, list[Path]] = {}
    for inner in _INNER:
        shards = {s: sorted((folder / inner).glob(f"{s}-*.parquet")) for s in SPLITS}
        if any(shards.values()):
            break
    else:
        return None
    missing = [s for s in SPLITS if not shards[s]]
    if missing:
        return f"it has no {missing[0]}-*.parquet"
    totals = dict.fromkeys(SPLITS, 0)
    columns: dict[str, tuple[str, str]] = {}
    for split in SPLITS:
        _check_shards(shards[split])
        for path in shards[split]:
            totals[split] += _open(path).metadata.num_rows
        columns_or_reason = _columns(shards[split][0], facts)
        if isinstance(columns_or_reason, str):
            return columns_or_reason
        columns[split] = columns_or_reason
        head = [data for data, _ in _rows(shards[split], columns[split], 3)]
        if reason := wrong_size(head, facts.shape):
            return reason
    name = copy_name(folder, "parquet")
    note = copy_note(name, f"a Hugging Face parquet copy of {look_at(head[0])[1]} pictures", facts)
    read = partial(_read_parquet, shards, columns, totals, facts)
    return Found(name, "Hugging Face parquet", False, note, folder, totals, read)


def _open(path: Path) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        damaged(path, "a parquet file", error)


def _check_shards(paths: list[Path]) -> None:
    """Refuse an incomplete set of `…-of-00003.parquet`: it would pass for a smaller data set."""
    match = re.search(r"-of-(\d+)\.parquet$", paths[0].name)
    if match and len(paths) != int(match[1]):
        raise IntegrityError(
            f"{paths[0].parent}: expected {int(match[1])} shards like {paths[0].name}, got {len(paths)}. "
            "Add the missing files or remove the folder."
        )


def _columns(path: Path, facts: Facts) -> tuple[str, str] | str:
    """Return the names of picture and label column, or why the table does not serve."""
    import pyarrow

    schema = _open(path).schema_arrow
    picture = next((c for c in ("img", "image") if c in schema.names), None)
    label = next((c for c in facts.label_columns if c in schema.names), None)
    if picture is None or label is None:
        return f"its columns are {', '.join(schema.names)}, not img or image and {facts.label_columns[0]}"
    kind = schema.field(picture).type
    if not pyarrow.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return f"its column {picture} is no struct with bytes"
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = class_names(features[label]["names"])
    except (KeyError, TypeError, ValueError):
        return "its schema metadata holds no class names"
    return (picture, label) if names == facts.classes else f"its class names are not those of {facts.name}"


def _rows(paths: list[Path], columns: tuple[str, str], n: int) -> Iterator[tuple[bytes | None, int | None]]:
    """Yield the first n encoded pictures and labels, in file order, reading no further than needed."""
    import pyarrow

    left = n
    for path in paths:
        table = _open(path)
        try:
            for batch in table.iter_batches(min(left, 1024) or 1, columns=[f"{columns[0]}.bytes", columns[1]]):
                data, labels = batch.column(columns[0]).field("bytes"), batch.column(columns[1])
                yield from zip(data.to_pylist()[:left], labels.to_pylist()[:left], strict=True)
                left -= len(batch)
                if left <= 0:
                    return
        except (pyarrow.ArrowException, OSError) as error:
            damaged(path, "a whole parquet file", error)


def _read_parquet(
    shards: dict[str, list[Path]],
    columns: dict[str, tuple[str, str]],
    totals: dict[str, int],
    facts: Facts,
    split: str,
    n: int | None,
) -> Arrays:
    count = totals[split] if n is None else min(n, totals[split])
    channels, height, width = facts.shape
    images = np.empty((count, height, width, channels), np.uint8)
    labels = np.full(count, -1, np.int64)
    folder = shards[split][0].parent
    for i, (data, label) in enumerate(_rows(shards[split], columns[split], count)):
        if data is None or label is None:
            raise IntegrityError(f"{folder}: expected a picture and a label, got null at {split} index {i}. Mend it.")
        images[i] = decode(data, facts.shape, f"{folder}, {split} index {i}")
        labels[i] = label
    return _channels_first(images), check_labels(labels, len(facts.classes), f"{folder}, {split}")


def _channels_first(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


# --- npz ------------------------------------------------------------------------------------------------------------

_KEYS = ("x_train", "y_train", "x_test", "y_test")


def npz(folder: Path, facts: Facts) -> Found | str | None:
    """Look for an `.npz` with x_train, y_train, x_test, y_test, and perhaps `classes` (names, in label order).

    Pictures are uint8, or floats in [0, 1], as (N, H, W, C), (N, C, H, W), or (N, H, W) where C is 1. Without
    `classes` the labels are taken in the order of the suite's data set, and the note says so.

    Raises:
        IntegrityError: an `.npz` does not parse.
    """
    reason = None
    for path in sorted(folder.glob("*.npz")):
        headers = _npz_headers(path)
        if not set(_KEYS) <= headers.keys():
            reason = f"{path.name} lacks {next(k for k in _KEYS if k not in headers)}"
            continue
        layouts = {_layout(headers[f"x_{s}"], facts.shape) for s in SPLITS}
        if None in layouts or len(layouts) > 1:
            reason = f"{path.name} holds arrays {headers['x_train']}, not images {facts.shape}"
            continue
        named = "classes" in headers
        if named and class_names([str(c) for c in _array(path, "classes")]) != facts.classes:
            reason = f"the class names in {path.name} are not those of {facts.name}"
            continue
        name = copy_name(folder, "npz")
        note = copy_note(name, "an npz copy", facts)
        note += "" if named else f"; it names no classes, its labels were taken in the order of {facts.name}"
        totals = {s: headers[f"x_{s}"][0] for s in SPLITS}
        return Found(name, "npz", False, note, folder, totals, partial(_read_npz, path, facts))
    return reason


def _npz_headers(path: Path) -> dict[str, tuple[int, ...]]:
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
                    shapes[member.removesuffix(".npy")] = header(stream)[0]
    except (zipfile.BadZipFile, OSError, ValueError, EOFError) as error:
        damaged(path, "an npz archive", error)
    return shapes


def _layout(array: tuple[int, ...], shape: tuple[int, int, int]) -> str | None:
    """Return how the axes of an array of pictures lie, None if they do not fit the data set."""
    channels, height, width = shape
    known: dict[tuple[int, ...], str] = {(height, width, channels): "NHWC", shape: "NCHW"}
    if channels == 1:
        known[(height, width)] = "NHW"
    return known.get(tuple(array[1:])) if array else None


def _array(path: Path, key: str) -> np.ndarray:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[key]
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, zlib.error) as error:
        damaged(path, f"an array {key} without pickles", error)


def _read_npz(path: Path, facts: Facts, split: str, n: int | None) -> Arrays:
    images, labels = _array(path, f"x_{split}"), _array(path, f"y_{split}").reshape(-1)
    where = f"{path}, {split}"
    if len(images) != len(labels):
        raise IntegrityError(
            f"{where}: expected as many labels as images, got {len(labels)} for {len(images)}. Mend it."
        )
    labels = check_labels(labels, len(facts.classes), where)
    order = _shuffled(len(labels), n)
    images = images[order]
    if images.dtype != np.uint8:
        images = _unit_floats(images, order, where)
    axes = {"NHWC": (0, 3, 1, 2), "NCHW": (0, 1, 2, 3), "NHW": None}[_layout(images.shape, facts.shape) or "NHW"]
    images = images[:, None] if axes is None else images.transpose(axes)
    return np.ascontiguousarray(images), labels[order]


def _unit_floats(images: np.ndarray, order: np.ndarray, where: str) -> np.ndarray:
    """Return images as float32, checked to lie in [0, 1]."""
    if images.dtype.kind != "f":
        raise IntegrityError(f"{where}: expected uint8 or floats in [0, 1], got {images.dtype}. Convert the pictures.")
    inside = ((images >= 0) & (images <= 1)).reshape(len(images), -1).all(1)  # NaN is not inside
    if not inside.all():
        index = int(order[np.flatnonzero(~inside)[0]])
        raise IntegrityError(f"{where}: expected pixels in [0, 1], got others at index {index}. Divide by 255?")
    return images.astype(np.float32)


def _shuffled(total: int, n: int | None) -> np.ndarray:
    """Return the first n of a fixed permutation: files sorted by class would give a limit one class only."""
    return np.random.RandomState(0).permutation(total)[:n]


# --- ImageFolder ----------------------------------------------------------------------------------------------------

_PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp"}


def image_folder(folder: Path, facts: Facts) -> Found | str | None:
    """Look for `train/<class>/` and `test/<class>/` with one picture per file."""
    if not all((folder / s).is_dir() for s in SPLITS):
        return None
    files: dict[str, list[tuple[Path, int]]] = {}
    seen: set[str] = set()
    for split in SPLITS:
        folders = sorted(p for p in (folder / split).iterdir() if p.is_dir())
        names = class_names([p.name for p in folders])
        foreign = [p.name for p, n in zip(folders, names, strict=True) if n not in facts.classes]
        if foreign or not folders:
            return f"{split}/{foreign[0] if foreign else ''} is no class of {facts.name}"
        seen |= set(names)
        files[split] = [
            (path, facts.classes.index(name))
            for place, name in zip(folders, names, strict=True)
            for path in sorted(place.iterdir())
            if path.suffix.lower() in _PICTURES
        ]
        if not files[split]:
            return f"{split} holds no pictures"
        if reason := wrong_size([path.read_bytes() for path, _ in files[split][:3]], facts.shape):
            return reason
    if absent := [c for c in facts.classes if c not in seen]:
        return f"the folder of class {absent[0]} is missing (an empty one will do)"
    name = copy_name(folder, "folder")
    kind = look_at(files["test"][0][0].read_bytes())[1]
    note = copy_note(name, f"a folder of {kind} pictures", facts)
    totals = {s: len(files[s]) for s in SPLITS}
    return Found(name, "ImageFolder", False, note, folder, totals, partial(_read_folder, files, facts))


def _read_folder(files: dict[str, list[tuple[Path, int]]], facts: Facts, split: str, n: int | None) -> Arrays:
    chosen = [files[split][i] for i in _shuffled(len(files[split]), n)]
    channels, height, width = facts.shape
    images = np.empty((len(chosen), height, width, channels), np.uint8)
    for i, (path, _) in enumerate(chosen):
        images[i] = decode(path.read_bytes(), facts.shape, str(path))
    return _channels_first(images), np.array([label for _, label in chosen], np.int64)
