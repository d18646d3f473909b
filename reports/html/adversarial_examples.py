"""Images as PNG data URIs: clean, perturbation, adversarial; written here so that the bytes depend on zlib alone."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from bench.reports import formatting
from bench.reports.board.model import Board, Row

SIDE = 64  # larger images are shrunk to this many pixels
BUDGET = 160  # pictures of one kind on the whole page


@dataclass(frozen=True)
class Picture:
    """One broken image: three PNGs and what happened."""

    index: int
    clean: str
    change: str
    adversarial: str
    label: str
    prediction: str
    distance: str
    broken_by: str
    gain: str


@dataclass(frozen=True)
class Gallery:
    """The broken images of one model: those that fell to the smallest changes, and those that needed the largest."""

    seed: int
    first: tuple[Picture, ...]
    last: tuple[Picture, ...]


def gallery(board: Board, row: Row, table: pd.DataFrame) -> Gallery | None:
    """Return the pictures of a defense's first model that has any; fewer per defense on a long board."""
    most = max(2, min(6, BUDGET // (2 * max(1, len(board.rows)))))
    for seed in row.seeds:
        stored = board.pictures.get((row.defense, seed))
        if stored is None or stored["clean"].shape[1] not in (1, 3):
            continue
        m = len(stored["index"])
        half = min(most, -(-m // 2))
        first = range(half)
        last = range(max(half, m - half), m)
        facts = table[table["seed"] == seed].set_index("index")
        made = [[_picture(board, facts, stored, i) for i in group] for group in (first, reversed(last))]
        return Gallery(seed, tuple(made[0]), tuple(made[1]))
    return None


def _picture(board: Board, facts: pd.DataFrame, stored: dict[str, Any], i: int) -> Picture:
    index = int(stored["index"][i])
    clean, adversarial = (np.asarray(stored[k][i], dtype="float64") for k in ("clean", "adversarial"))
    delta = adversarial - clean
    size = float(np.abs(delta).max())
    gain = 0.5 / size if size > 0 else 1.0
    classes = board.plan.data.classes
    prediction = stored.get("prediction")
    by = f"{board.ranking}_broken_by"
    distance = np.asarray(stored.get("distance", np.full(len(stored["index"]), np.nan)))[i]
    return Picture(
        index=index,
        clean=data_uri(clean),
        change=data_uri(0.5 + gain * delta),
        adversarial=data_uri(adversarial),
        label=_class(classes, facts.at[index, "label"]) if index in facts.index else "?",
        prediction="" if prediction is None else _class(classes, prediction[i]),
        distance=formatting.number(float(distance)),
        broken_by=str(facts.at[index, by]) if by in facts and index in facts.index else "",
        gain=f"{gain:.3g}",
    )


def _class(classes: Sequence[str], k: Any) -> str:
    return classes[int(k)] if 0 <= int(k) < len(classes) else str(int(k))


def data_uri(image: np.ndarray) -> str:
    """Return an image (C, H, W) with values in [0, 1], 1 or 3 channels, as a PNG data URI; large ones are shrunk."""
    return "data:image/png;base64," + base64.b64encode(png(_shrunk(image))).decode()


def png(image: np.ndarray) -> bytes:
    """Encode an image (C, H, W) with values in [0, 1] and 1 or 3 channels as an 8-bit PNG."""
    channels, height, width = image.shape
    pixels = np.rint(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8).transpose(1, 2, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _shrunk(image: np.ndarray) -> np.ndarray:
    """Average blocks of pixels until no side is longer than SIDE."""
    step = -(-max(image.shape[1:]) // SIDE)
    if step == 1:
        return image
    height, width = (n // step * step for n in image.shape[1:])
    blocks = image[:, :height, :width].reshape(len(image), height // step, step, width // step, step)
    return blocks.mean(axis=(2, 4))
