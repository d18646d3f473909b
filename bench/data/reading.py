"""What reading a data set needs whatever its layout: the record of what was found, pictures, labels, errors."""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from bench.core.errors import IntegrityError, MachineError
from bench.data.info import DATASETS, DatasetInfo

Arrays = tuple[np.ndarray, np.ndarray]
SPLITS = ("train", "test")


@dataclass(frozen=True, slots=True)
class Found:
    """A folder that serves.

    Attributes:
        name: what the data is called on the board.
        layout: how it lies there, for the reader.
        original: whether it is the original, proved by checksums when it is read.
        note: what a reader of the board must know; "" for the original.
        folder: where it lies.
        totals: number of images of each split.
        read: `read(split, n) -> (images (n, C, H, W), labels (n,) int64)`, the first n (None: all).
    """

    name: str
    layout: str
    original: bool
    note: str
    folder: Path
    totals: dict[str, int]
    read: Callable[[str, int | None], Arrays]


def copy_name(folder: Path, layout: str) -> str:
    """Return the name of a copy: its folder's, made safe, and never one that reads like an original's."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._")[:48] or "data"
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    if plain in {re.sub(r"[^a-z0-9]", "", known) for known in DATASETS}:
        name = f"{name}-{layout.lower()}"
    return name


def damaged(path: Path, expected: str, got: object) -> NoReturn:
    """Raise the error for a file that is not what its name says; an HTML page is called one.

    Args:
        path: the file.
        expected: what its name promises.
        got: what it is instead, or the exception that reading it raised.

    Raises:
        IntegrityError: always, but
        MachineError: if there is no permission to read the file.
    """
    if isinstance(got, PermissionError):
        raise MachineError(f"{path}: expected a readable file, got no permission. Change its mode.") from got
    cause = got if isinstance(got, BaseException) else None
    text = " ".join(str(got).split())[:160] or type(got).__name__
    if path.is_file() and looks_like_html(path):
        text = "an HTML page (a failed download?)"
    raise IntegrityError(f"{path}: expected {expected}, got {text}. Replace or remove the file.") from cause


def looks_like_html(path: Path) -> bool:
    """Return whether a file is a web page, which a failed download leaves under the expected name."""
    with path.open("rb") as stream:
        start = stream.read(512).lstrip().lower()
    return start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml"))


def check_labels(labels: np.ndarray, classes: int, where: str) -> np.ndarray:
    """Return labels as int64 (N,).

    Args:
        labels: (N,), any dtype.
        classes: number of classes.
        where: the file, for the message.

    Raises:
        IntegrityError: one is no integer in [0, classes); the first such index is named.
    """
    if labels.dtype.kind not in "iu":
        raise IntegrityError(f"{where}: expected integer labels, got {labels.dtype}. Replace the file.")
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise IntegrityError(
            f"{where}: expected labels 0..{classes - 1}, got {labels[wrong[0]]} at index {wrong[0]} "
            f"({len(wrong)} of {len(labels)}). Replace the file, or choose the suite of this data set."
        )
    return labels.astype(np.int64)


_BROKEN_PICTURE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Warning)


def decode(data: bytes, shape: tuple[int, int, int], where: str, *, fit: bool = False) -> np.ndarray:
    """Return one picture as uint8 (H, W, C). The size is compared before any pixel is decoded.

    Args:
        data: the encoded picture (PNG, JPEG …).
        shape: (C, H, W) that it must have; it is converted to RGB (C = 3) or grey (C = 1).
        where: file and index, for the message.
        fit: whether one of another size is scaled, bilinearly, so that it covers H×W, and cut at the middle.

    Raises:
        IntegrityError: it does not decode, or has another size.
    """
    from PIL import Image, ImageOps

    channels, height, width = shape
    try:
        with warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            image: Image.Image = Image.open(io.BytesIO(data))
            size = image.size
            if fit or size == (width, height):
                mode = "RGB" if channels == 3 else "L"
                image = image if image.mode == mode else image.convert(mode)
                if size != (width, height):
                    image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
                return np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, channels)
    except (*_BROKEN_PICTURE, Image.DecompressionBombError) as error:
        raise IntegrityError(
            f"{where}: expected a picture, got one that does not decode ({' '.join(str(error).split())[:120]}). "
            "Replace the file."
        ) from error
    raise IntegrityError(
        f"{where}: expected {width}×{height} pixels, got {size[0]}×{size[1]}. Replace the file, or resize its pictures."
    )


def look_at(data: bytes | None) -> tuple[tuple[int, int] | None, str]:
    """Return (H, W) and the format ("JPEG" …) of an encoded picture, from its header; None and "" if it is none."""
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image = Image.open(io.BytesIO(data or b""))
    except (*_BROKEN_PICTURE, Image.DecompressionBombError):
        return None, ""
    return (image.height, image.width), image.format or ""


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of an encoded picture says: (H, W), PIL's mode, the format."""

    size: tuple[int, int]
    mode: str
    format: str


def header_of(data: bytes, where: str) -> Header:
    """Return what the header of an encoded picture says.

    Args:
        data: the encoded picture.
        where: the file, for the message.

    Raises:
        IntegrityError: it is no picture.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings(action="ignore", category=Image.DecompressionBombWarning):
            image = Image.open(io.BytesIO(data))
    except (*_BROKEN_PICTURE, Image.DecompressionBombError) as error:
        raise IntegrityError(f"{where}: expected a picture, got none that is known. Replace or remove it.") from error
    return Header((image.height, image.width), image.mode, image.format or "")


def wrong_size(head: list[bytes | None], shape: tuple[int, int, int]) -> str | None:
    """Say so if none of the first pictures has the size; one odd picture among right ones is damage, found later."""
    known = [size for size, _ in map(look_at, head) if size is not None]
    if known and shape[1:] not in known:
        return f"its pictures are {known[0][1]}×{known[0][0]}, not {shape[2]}×{shape[1]}"
    return None


def copy_note(name: str, what: str, info: DatasetInfo) -> str:
    """Return what a reader of the board must know about a copy."""
    return f"{name}: {what}, not the original {info.name} with its checksums"
