"""A folder of one's own as a data set: image size, classes and parts are taken from what lies there."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.core.errors import MachineError, UsageError
from bench.data.arrays import shuffled, stratified
from bench.data.info import DatasetInfo
from bench.data.own_layouts import Layout, Part, Shape, image_folder, npz, parquet
from bench.data.reading import copy_name
from bench.data.split import Dataset, Split

_LAYOUTS = (image_folder, parquet, npz)
_EXPECTED = (
    "train/CLASS/ with pictures (and test/CLASS/), CLASS/ with pictures, train-*.parquet as on the Hugging Face hub, "
    "or one .npz with x_train and y_train"
)


@dataclass(frozen=True, slots=True)
class OwnData:
    """A folder that a suite names as its data set, and what the suite says of it.

    Attributes:
        folder: where it lies; or an `.npz` file.
        test: images that are held out for testing where the folder has no test part: a share below 1, or a number.
        size: (H, W) to which pictures are scaled and cut; None: they have one size.
        channels: 1 or 3; None: 1 where all pictures are grey.
    """

    folder: Path
    test: float = 0
    size: tuple[int, int] | None = None
    channels: int | None = None

    @property
    def word(self) -> str:
        """The folder's name, by which it is found again."""
        return self.folder.name


def locate(text: str, places: Iterable[Path]) -> Path | None:
    """Return the folder, or `.npz` file, of a suite's data set; None if there is none.

    Args:
        text: a path, or a name.
        places: folders that it may lie in; one of that name itself serves too.
    """
    for place in places:
        for path in (place / text, place):
            named = path != place or place.resolve().name == Path(text).name
            if named and (path.is_dir() or (path.suffix == ".npz" and path.is_file())):
                return path.resolve()
    return None


def describe(own: OwnData) -> DatasetInfo:
    """Return name, image size and classes of a folder; of the images only headers are read.

    Raises:
        UsageError: the folder holds no data set that can be read, or not as the suite says.
        IntegrityError: a file is damaged.
        MachineError: it cannot be read.
    """
    layout = _layout(own)
    return DatasetInfo(
        copy_name(_named(own), layout.word), "a folder of one's own", _shape(own, layout), layout.classes
    )


def load_own(
    own: OwnData, *, train_limit: int | None = None, limit: int | None = None, need_train: bool = True
) -> Dataset:
    """Load a folder of one's own.

    Each part is in the order of a fixed permutation of its files' order, whatever the layout, so that a limit takes
    images of every class, and the same images give the same fingerprint from each layout.

    Args:
        own: the folder, and what the suite says of it.
        train_limit: first N training images; more than there are means all.
        limit: first N test images, likewise.
        need_train: False leaves the training images unread.

    Returns:
        The data set, named after the folder.

    Raises:
        UsageError: the folder holds no data set that can be read, or not as the suite says.
        IntegrityError: a file is damaged.
        MachineError: it cannot be read.
    """
    layout = _layout(own)
    shape = _shape(own, layout)
    parts = _parts(own, layout)
    splits = {}
    for name, n in (("train", train_limit if need_train else 0), ("test", limit)):
        part, order = parts[name]
        chosen = order[:n]
        try:
            images = part.read(chosen, shape, own.size is not None) if len(chosen) else np.empty((0, *shape), np.uint8)
        except OSError as error:
            raise MachineError(f"{error.filename}: expected a readable file, got {error.strerror}.") from error
        splits[name] = Split.of(images, part.labels[chosen])
    name = copy_name(_named(own), layout.word)
    return Dataset(
        name=name,
        original=False,
        layout=layout.name,
        classes=layout.classes,
        shape=shape,
        train=splits["train"],
        test=splits["test"],
        train_total=len(parts["train"][1]),
        test_total=len(parts["test"][1]),
        note=_note(own, layout, name),
        location=own.word,
    )


def _named(own: OwnData) -> Path:
    """Return the folder, or the file without its ending, for the data set's name."""
    return own.folder.with_suffix("") if own.folder.suffix == ".npz" else own.folder


def _layout(own: OwnData) -> Layout:
    """Return what the folder holds."""
    reasons: list[str] = []
    for look in _LAYOUTS:
        if own.folder.suffix == ".npz" and look is not npz:
            continue
        try:
            found = look(own.folder)
        except OSError as error:
            raise MachineError(f"{own.folder}: expected readable files, got {error}. Check its modes.") from error
        if isinstance(found, Layout):
            return _checked(own, found)
        reasons += [found] if found else []
    got = "; ".join(reasons) or "none of these"
    raise UsageError(f"data set {own.word}: expected {_EXPECTED}, got {got}. docs/data.md shows each layout.")


def _checked(own: OwnData, layout: Layout) -> Layout:
    """Refuse a layout that cannot be trained on."""
    where, known = f"data set {own.word}", len(layout.classes)
    if known < 2:
        raise UsageError(f"{where}: expected at least two classes, got {known}. One folder per class.")
    counts = np.bincount(layout.parts["train"].labels, minlength=known)
    if empty := [layout.classes[i] for i in np.flatnonzero(counts == 0)]:
        raise UsageError(f"{where}: expected training images of each class, got none of {empty[0]!r}. Add some.")
    if "test" not in layout.parts and not own.test:
        raise UsageError(
            f"{where}: expected test images, got a training part alone. Add a folder or file test, or hold some out: "
            "write test = 0.2 under [data] in the suite."
        )
    if "test" in layout.parts and not len(layout.parts["test"].labels):
        raise UsageError(f"{where}: expected test images, got a test part without any. Add some.")
    if "test" in layout.parts and own.test:
        raise UsageError(f"{where}: expected no data.test, since there is a test part, got {own.test}. Remove it.")
    return layout


def _shape(own: OwnData, layout: Layout) -> Shape:
    """Return (C, H, W) of the images."""
    channels = own.channels or layout.channels
    if not layout.fits and (channels != layout.channels or own.size not in (None, layout.sizes[0])):
        raise UsageError(
            f"data set {own.word}: expected no data.size or data.channels for arrays, got another than their "
            f"{layout.channels}×{layout.sizes[0][0]}×{layout.sizes[0][1]}. Resize the arrays in the file."
        )
    if own.size is None and len(layout.sizes) > 1:
        (a, b), (c, d) = layout.sizes[:2]
        raise UsageError(
            f"data set {own.word}: expected pictures of one size, got {b}×{a} and {d}×{c}. Write size = 32 (or "
            "[height, width]) under [data] in the suite: pictures are then scaled and cut to it."
        )
    height, width = own.size or layout.sizes[0]
    return channels, height, width


def _parts(own: OwnData, layout: Layout) -> dict[str, tuple[Part, np.ndarray]]:
    """Return the two parts, each with the places of its images in their order."""
    train = layout.parts["train"]
    order = shuffled(len(train.labels), None)
    if "test" in layout.parts:
        test = layout.parts["test"]
        return {"train": (train, order), "test": (test, shuffled(len(test.labels), None))}
    total = len(order)
    n = round(own.test * total) if own.test < 1 else int(own.test)
    if not 0 < n < total:
        raise UsageError(
            f"data set {own.word}: expected data.test to leave images for both parts, got {n} of {total}. "
            "Write a share such as 0.2."
        )
    held = stratified(train.labels[order], n)
    return {"train": (train, order[~held]), "test": (train, order[held])}


def _note(own: OwnData, layout: Layout, name: str) -> str:
    """Return what a reader of the board must know."""
    said = [f"{name}: {layout.what} of one's own ({layout.name}), {len(layout.classes)} classes"]
    if own.size is not None and layout.sizes != (own.size,):
        said.append(f"scaled and cut to {own.size[1]}×{own.size[0]} pixels")
    if own.channels is not None and own.channels != layout.channels:
        said.append(f"converted to {'grey' if own.channels == 1 else 'colour'}")
    if "test" not in layout.parts:
        share = f"{own.test:.0%} of them" if own.test < 1 else f"{int(own.test):,}"
        said.append(f"{share} held out for testing, class by class")
    return "; ".join([*said, *filter(None, [layout.note])])


def safe_folder(text: str) -> str:
    """Return a suite's data set as plans record it: the last part of its path, without control characters."""
    return re.sub(r"[^\w .,+@-]", "_", Path(text).name)[:100]
