"""Images as PNG, written here so that the bytes depend on zlib alone."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def png(image: np.ndarray) -> bytes:
    """Return an image (C, H, W) with values in [0, 1] and 1 or 3 channels as an 8-bit PNG.

    Args:
        image: (C, H, W).
    """
    channels, height, width = image.shape
    pixels = np.rint(255 * np.clip(np.nan_to_num(image), 0, 1)).astype(np.uint8).transpose(1, 2, 0)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image with blocks of pixels averaged until no side is longer than `side`.

    Args:
        image: (C, H, W).
        side: in pixels.
    """
    step = -(-max(image.shape[1:]) // side)
    if step == 1:
        return image
    height, width = (n // step * step for n in image.shape[1:])
    blocks = image[:, :height, :width].reshape(len(image), height // step, step, width // step, step)
    return blocks.mean(axis=(2, 4))
