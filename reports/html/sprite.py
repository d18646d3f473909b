"""All thumbnails of the page in one image: each is a tile of it, shown by its place."""

from __future__ import annotations

import base64
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from bench.reports.board.contested import THUMBNAIL
from bench.reports.html.png import png, shrunk

COLUMNS: Final = 40  # tiles side by side
SHOWN: Final = 64  # about as many pixels of the screen a tile is wide
SHADES: Final = 15  # steps of a perturbation's brightness, which is noise and does not compress


@dataclass(frozen=True)
class Tile:
    """The place of a thumbnail, in tiles from the left and from the top."""

    x: int
    y: int


@dataclass
class Sprite:
    """Thumbnails, each once.

    Attributes:
        numbers: what was added, to its number.
        images: by number, (C, H, W) in [0, 1].
    """

    numbers: dict[Hashable, int] = field(default_factory=dict)
    images: list[np.ndarray] = field(default_factory=list)

    def image(self, key: Hashable, image: np.ndarray) -> Tile:
        """Return the place of a picture, which is added unless it is there already.

        Args:
            key: of the picture; what it shows.
            image: (C, H, W) in [0, 1], all of one size.
        """
        if key not in self.numbers:
            self.numbers[key] = len(self.images)
            self.images.append(shrunk(np.asarray(image, dtype="float64"), THUMBNAIL))
        return self.place(key)

    def change(self, key: Hashable, clean: np.ndarray, adversarial: np.ndarray) -> tuple[Tile, str]:
        """Return the place of the difference of two pictures, grey where there is none, and how much it is amplified.

        Args:
            key: of the picture; what it shows.
            clean: (C, H, W) in [0, 1].
            adversarial: likewise.
        """
        delta = np.asarray(adversarial, dtype="float64") - np.asarray(clean, dtype="float64")
        largest = float(np.abs(delta).max())
        gain = 0.5 / largest if largest > 0 else 1.0
        return self.image(key, np.rint(SHADES * (0.5 + gain * delta)) / SHADES), f"{gain:.3g}"

    def place(self, key: Hashable) -> Tile:
        """Return the place of a picture that was added.

        Args:
            key: of the picture.
        """
        number = self.numbers[key]
        return Tile(number % COLUMNS, number // COLUMNS)

    def css(self) -> str:
        """Return the style that shows a tile, "" where there is none."""
        if not self.images:
            return ""
        channels, height, width = self.images[0].shape
        rows = -(-len(self.images) // COLUMNS)
        sheet = np.ones((channels, rows * height, COLUMNS * width))
        for number, image in enumerate(self.images):
            y, x = number // COLUMNS * height, number % COLUMNS * width
            sheet[:, y : y + height, x : x + width] = image
        scale = max(1, round(SHOWN / max(height, width)))
        w, h = scale * width, scale * height
        uri = base64.b64encode(png(sheet)).decode()
        return (
            f".tile {{ width: {w}px; height: {h}px; background: url(data:image/png;base64,{uri}) "
            f"calc(var(--x) * -{w}px) calc(var(--y) * -{h}px) / {COLUMNS * w}px {rows * h}px; }}\n"
        )
