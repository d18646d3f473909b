"""ImageFolder layout: one sub-folder of pictures per class."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from bench.data.arrays import channels_first, shuffled
from bench.data.info import DatasetInfo, class_names
from bench.data.reading import (
    SPLITS,
    Arrays,
    Found,
    copy_name,
    copy_note,
    decode,
    look_at,
    wrong_size,
)

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".ppm", ".webp"}


def image_folder(folder: Path, info: DatasetInfo) -> Found | str | None:
    """Look for `train/<class>/` and `test/<class>/` with one picture per file."""
    if not all((folder / s).is_dir() for s in SPLITS):
        return None
    files: dict[str, list[tuple[Path, int]]] = {}
    seen: set[str] = set()
    for split in SPLITS:
        folders = sorted(p for p in (folder / split).iterdir() if p.is_dir())
        names = class_names([p.name for p in folders])
        foreign = [p.name for p, n in zip(folders, names, strict=True) if n not in info.classes]
        if foreign or not folders:
            return f"{split}/{foreign[0] if foreign else ''} is no class of {info.name}"
        seen |= set(names)
        files[split] = [
            (path, info.classes.index(name))
            for place, name in zip(folders, names, strict=True)
            for path in sorted(place.iterdir())
            if path.suffix.lower() in SUFFIXES
        ]
        if not files[split]:
            return f"{split} holds no pictures"
        if reason := wrong_size([path.read_bytes() for path, _ in files[split][:3]], info.shape):
            return reason
    if absent := [c for c in info.classes if c not in seen]:
        return f"the folder of class {absent[0]} is missing (an empty one will do)"
    name = copy_name(folder, "folder")
    kind = look_at(files["test"][0][0].read_bytes())[1]
    note = copy_note(name, f"a folder of {kind} pictures", info)
    totals = {s: len(files[s]) for s in SPLITS}
    return Found(name, "ImageFolder", False, note, folder, totals, partial(_read_folder, files, info))


def _read_folder(files: dict[str, list[tuple[Path, int]]], info: DatasetInfo, split: str, n: int | None) -> Arrays:
    chosen = [files[split][i] for i in shuffled(len(files[split]), n)]
    channels, height, width = info.shape
    images = np.empty((len(chosen), height, width, channels), np.uint8)
    for i, (path, _) in enumerate(chosen):
        images[i] = decode(path.read_bytes(), info.shape, str(path))
    return channels_first(images), np.array([label for _, label in chosen], np.int64)
