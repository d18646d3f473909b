"""The layouts in which people keep data sets of their own: what is there is taken as it is, nothing is expected of it.

`image_folder`, `npz` and `parquet` beside this file look for copies of the named data sets, whose sizes and classes are
known; here both are read from the folder. The bytes are read by the same functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from bench.core.errors import IntegrityError
from bench.core.text import one_line
from bench.data.arrays import channels_first, check_levels
from bench.data.image_folder import SUFFIXES
from bench.data.npz import array_of, headers_of, unit_floats
from bench.data.parquet import INNER, check_shards, open_table, rows
from bench.data.reading import Header, check_labels, decode, header_of

Shape = tuple[int, int, int]
# What people call the two parts; a validation part serves where there is no test part.
TRAIN: Final = ("train", "training")
TEST: Final = ("test", "val", "valid", "validation")
_NPZ_PARTS: Final = (("x_{}", "y_{}"), ("X_{}", "y_{}"), ("{}_images", "{}_labels"))  # the last is MedMNIST's
_NPZ_WHOLE: Final = (("x", "y"), ("X", "y"), ("images", "labels"))
_LABELS: Final = ("label", "fine_label", "labels", "class")
_LOOKED_AT: Final = 64  # pictures whose headers say size and colour; a later odd one is an error with its name
_GREY: Final = frozenset({"1", "L", "LA", "I", "I;16", "F"})  # PIL's modes without colour


@dataclass(frozen=True)
class Part:
    """The training or the test images of a folder, in the order of its files.

    Attributes:
        labels: (N,) int64.
        read: `read(places, shape, fit) -> images (n, C, H, W)` of some of them; `fit` scales those of another size.
    """

    labels: np.ndarray
    read: Callable[[np.ndarray, Shape, bool], np.ndarray]


@dataclass(frozen=True)
class Layout:
    """What a folder holds.

    Attributes:
        name: of the layout, for readers.
        word: of the layout, for names.
        what: what the images are, for readers.
        classes: names in the order of the labels.
        parts: "train", and "test" where the folder has one.
        sizes: (H, W) of the pictures that were looked at.
        channels: 1 if all of them are grey, else 3.
        fits: whether pictures can be scaled to another size.
        note: what a reader must know beside that; "" if nothing.
    """

    name: str
    word: str
    what: str
    classes: tuple[str, ...]
    parts: Mapping[str, Part]
    sizes: tuple[tuple[int, int], ...]
    channels: int
    fits: bool
    note: str = ""


def image_folder(folder: Path) -> Layout | str | None:
    """Look for `train/<class>/` and perhaps `test/<class>/`, else for `<class>/`, with one picture per file.

    Returns:
        What was found; why it does not serve; None where there are no folders with pictures.
    """
    places = {part: place for part, names in _PARTS if (place := _first(folder / name for name in names))}
    if "test" in places and "train" not in places:
        return f"it has {places['test'].name}/ and no train/"
    places = places or {"train": folder}
    files = {part: _pictures(place) for part, place in places.items()}
    classes = tuple(sorted({name for found in files.values() for name in found}))
    if not any(files["train"].values()):
        return None if places["train"] == folder else "train/ holds no pictures in folders named after classes"
    parts = {}
    for part, found in files.items():
        paths = [(path, classes.index(name)) for name in sorted(found) for path in found[name]]
        parts[part] = Part(np.array([label for _, label in paths], np.int64), partial(_read_files, paths))
    every = [path for found in files.values() for name in sorted(found) for path in found[name]]
    looked = [header_of(every[i].read_bytes(), str(every[i])) for i in _spread(len(every))]
    return _of_pictures("ImageFolder", "folder", looked, classes, parts)


_PARTS: Final = (("train", TRAIN), ("test", TEST))


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.is_dir()), None)


def _pictures(place: Path) -> dict[str, list[Path]]:
    """Return the name of each class's folder to its pictures, those in folders within it too."""
    folders = sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = {p.name: sorted(f for f in p.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file()) for p in folders}
    return {name: files for name, files in found.items() if files}


def _spread(total: int) -> Iterator[int]:
    """Yield places of at most `_LOOKED_AT` items, evenly over all."""
    yield from sorted({i * total // _LOOKED_AT for i in range(_LOOKED_AT)} if total > _LOOKED_AT else range(total))


def _of_pictures(
    name: str,
    word: str,
    looked: Sequence[Header],
    classes: tuple[str, ...],
    parts: Mapping[str, Part],
    note: str = "",
) -> Layout:
    """Return a layout of encoded pictures, with what their headers say of all."""
    sizes = tuple(dict.fromkeys(header.size for header in looked))
    channels = 1 if all(header.mode in _GREY for header in looked) else 3
    formats = " and ".join(dict.fromkeys(header.format for header in looked))
    return Layout(name, word, f"{formats} pictures", classes, parts, sizes, channels, fits=True, note=note)


def _read_files(files: Sequence[tuple[Path, int]], places: np.ndarray, shape: Shape, fit: bool) -> np.ndarray:
    chosen = [files[place][0] for place in places]
    return _decoded(((path.read_bytes(), str(path)) for path in chosen), len(chosen), shape, fit)


def _decoded(pictures: Iterable[tuple[bytes, str]], n: int, shape: Shape, fit: bool) -> np.ndarray:
    """Return encoded pictures, each with its place for messages, as images (n, C, H, W)."""
    channels, height, width = shape
    images = np.empty((n, height, width, channels), np.uint8)
    for i, (data, where) in enumerate(pictures):
        images[i] = decode(data, shape, where, fit=fit)
    return channels_first(images)


def npz(path: Path) -> Layout | str | None:
    """Look for one `.npz` with images and labels: x_train and y_train, x and y, or MedMNIST's names.

    Pictures are uint8, or floats in [0, 1], as (N, H, W, C), (N, C, H, W) or (N, H, W), C 1 or 3. An array `classes`
    names the classes.

    Args:
        path: a folder, or the file.

    Returns:
        What was found; why it does not serve; None where there is none.

    Raises:
        IntegrityError: an `.npz` does not parse.
    """
    files = [path] if path.suffix == ".npz" else sorted(path.glob("*.npz"))
    if len(files) != 1:
        return f"it holds {len(files)} .npz files; name one of them, {path.name}/{files[0].name}" if files else None
    file = files[0]
    shapes = headers_of(file)
    keys = {part: found for part, names in _PARTS if (found := _keys(shapes, names))}
    if "train" not in keys:
        whole = next((pair for pair in _NPZ_WHOLE if set(pair) <= shapes.keys()), None)
        if whole is None:
            return f"{file.name} holds {', '.join(shapes) or 'nothing'}, not x_train and y_train"
        keys = {"train": whole}
    forms = {_axes(shapes[images]) for images, _ in keys.values()}
    form = next(iter(forms))
    if len(forms) > 1 or form is None:
        held = " and ".join(dict.fromkeys(str(shapes[images]) for images, _ in keys.values()))
        return f"{file.name} holds arrays {held}, not (N, H, W), (N, H, W, C) or (N, C, H, W)"
    axes, shape = form
    labels = {part: array_of(file, key).reshape(-1) for part, (_, key) in keys.items()}
    names = [one_line(str(c)) for c in array_of(file, "classes")] if "classes" in shapes else _numbered(labels.values())
    parts = {}
    for part, (images, _) in keys.items():
        where = f"{file}, {part}"
        if len(labels[part]) != shapes[images][0]:
            raise IntegrityError(
                f"{where}: expected as many labels as images, got {len(labels[part])} for {shapes[images][0]}. "
                "Correct the file."
            )
        parts[part] = Part(check_labels(labels[part], len(names), where), partial(_read_array, file, images, axes))
    note = "" if "classes" in shapes else "the file names no classes, so they are numbers"
    return Layout("npz", "npz", "arrays", tuple(names), parts, (shape[1:],), shape[0], fits=False, note=note)


def _keys(shapes: Mapping[str, Any], names: Sequence[str]) -> tuple[str, str] | None:
    """Return the keys of images and labels of a part, None if an archive has none."""
    pairs = ((a.format(name), b.format(name)) for name in names for a, b in _NPZ_PARTS)
    return next((pair for pair in pairs if set(pair) <= shapes.keys()), None)


def _axes(array: tuple[int, ...]) -> tuple[tuple[int, ...], Shape] | None:
    """Return the order of axes that makes (N, C, H, W) of an array, and (C, H, W); None if it holds no images."""
    if len(array) == 3:
        return (0, 1, 2), (1, array[1], array[2])
    if len(array) != 4:
        return None
    if array[3] in (1, 3):
        return (0, 3, 1, 2), (array[3], array[1], array[2])
    return ((0, 1, 2, 3), (array[1], array[2], array[3])) if array[1] in (1, 3) else None


def _numbered(labels: Iterable[np.ndarray]) -> list[str]:
    """Return the numbers of the classes as their names, as far as labels go."""
    largest = [int(found.max()) for found in labels if found.size and found.dtype.kind in "iu"]
    return [str(i) for i in range(max(largest, default=-1) + 1)]


def _read_array(file: Path, key: str, axes: tuple[int, ...], places: np.ndarray, shape: Shape, fit: bool) -> np.ndarray:
    images = array_of(file, key)[places]
    if images.dtype == np.uint8:
        check_levels(f"{file}, {key}", images, IntegrityError)
    else:
        images = unit_floats(images, places, f"{file}, {key}")
    images = images.transpose(axes)
    return np.ascontiguousarray(images[:, None] if images.ndim == 3 else images)


def parquet(folder: Path) -> Layout | str | None:
    """Look for Hugging Face's tables: `train-*.parquet` and perhaps `test-*.parquet`, else `*.parquet`.

    A column holds the encoded pictures as structs with `bytes`, another the labels: numbers, named in the schema's
    metadata or not, or the classes' names.

    Returns:
        What was found; why it does not serve; None where there is none.

    Raises:
        IntegrityError: a file does not parse, or a shard is missing.
    """
    shards = next((found for inner in INNER if (found := _shards(folder / inner))), None)
    if shards is None:
        return None
    if "train" not in shards:
        return f"it has {shards['test'][0].name} and no train-*.parquet"
    picture, label, names = _columns(shards["train"][0])
    if not picture or not label:
        columns = ", ".join(open_table(shards["train"][0]).schema_arrow.names)
        return f"its columns are {columns}: none holds pictures as structs with bytes, or none labels"
    values = {part: _values(paths, label) for part, paths in shards.items()}
    every = [value for found in values.values() for value in found]
    if any(value is None for value in every):
        return f"its column {label} has rows without a label"
    if isinstance(every[0], str):
        names = sorted(set(every))
        values = {part: [names.index(value) for value in found] for part, found in values.items()}
    numbers = {part: np.array(found) for part, found in values.items()}
    note = "" if names else "the table names no classes, so they are numbers"
    names = names or _numbered(numbers.values())
    parts, looked = {}, []
    for part, paths in shards.items():
        where = f"{paths[0].parent}, {part}"
        parts[part] = Part(
            check_labels(numbers[part], len(names), where), partial(_read_rows, paths, (picture, label), where)
        )
        head = rows(paths, (picture, label), _LOOKED_AT)
        looked += [header_of(data or b"", f"{where} index {i}") for i, (data, _) in enumerate(head)]
    return _of_pictures("Hugging Face parquet", "parquet", looked, tuple(map(one_line, names)), parts, note)


def _shards(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each part in a folder, {} where there are none."""
    if not folder.is_dir():
        return {}
    found = {
        part: files for part, names in _PARTS if (files := next((f for n in names if (f := _of_part(folder, n))), []))
    }
    whole = [] if found else sorted(folder.glob("*.parquet"))
    found = found or ({"train": whole} if whole else {})
    for paths in found.values():
        check_shards(paths)
    return found


def _of_part(folder: Path, name: str) -> list[Path]:
    return sorted([*folder.glob(f"{name}-*.parquet"), *folder.glob(f"{name}.parquet")])


def _columns(path: Path) -> tuple[str, str, list[str]]:
    """Return the names of picture and label column, "" for one that is not there, and the classes' names."""
    import pyarrow

    schema, kinds = open_table(path).schema_arrow, pyarrow.types
    pictures = [
        field.name for field in schema if kinds.is_struct(field.type) and field.type.get_field_index("bytes") >= 0
    ]
    labels = [f.name for f in schema if kinds.is_integer(f.type) or kinds.is_string(f.type)]
    label = next((name for name in _LABELS if name in labels), labels[0] if len(labels) == 1 else "")
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        names = []
    return next(iter(pictures), ""), label, names


def _values(paths: Sequence[Path], label: str) -> list[Any]:
    return [value for path in paths for value in open_table(path).read(columns=[label]).column(0).to_pylist()]


def _read_rows(
    paths: list[Path], columns: tuple[str, str], where: str, places: np.ndarray, shape: Shape, fit: bool
) -> np.ndarray:
    wanted = {int(place): i for i, place in enumerate(places)}
    images = np.empty((len(places), *shape), np.uint8)
    for place, (data, _) in enumerate(rows(paths, columns, int(places.max(initial=-1)) + 1)):
        if place in wanted:
            images[wanted[place]] = _decoded([(data or b"", f"{where} index {place}")], 1, shape, fit)[0]
    return images
