"""What a file of proposed adversarial images claims: to which test image each of them belongs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

import numpy as np

from bench.data.split import Split
from bench.running.proposals import Proposals

TIE: Final = 1e-9  # squared distances that differ by less belong to clean images that are copies of each other
_BLOCK: Final = 256


@dataclass(frozen=True)
class Refusal:
    """An image that is no counter-example.

    Attributes:
        position: its place in the file, from 0.
        index: of the test image that it belongs to; None: none was found.
        reason: why.
    """

    position: int
    index: int | None
    reason: str


@dataclass(frozen=True)
class Claim:
    """One image of the file, and the test image that it is to be compared with.

    Attributes:
        position: its place in the file, from 0.
        index: of the test image.
        image: (C, H, W).
    """

    position: int
    index: int
    image: np.ndarray


def claims_of(proposals: Proposals, test: Split) -> tuple[list[Claim], list[Refusal], int]:
    """Return what the file claims, what is refused before any model is asked, and how many images claim nothing.

    Args:
        proposals: the images of the file.
        test: the test images.
    """
    images = cast(np.ndarray, proposals.images)
    clean = test.pixels()
    places = _nearest(images, clean) if proposals.index is None else proposals.index.tolist()
    claims, refused, unchanged, seen = [], [], 0, set[int]()
    for position, (place, image) in enumerate(zip(places, images, strict=True)):
        index = int(place)
        if proposals.index is None and index >= 0 and np.array_equal(image, clean[index]):
            unchanged += 1
        elif proposals.index is None and index < 0:
            refused.append(Refusal(position, None, "NaN or infinity among its pixels"))
        elif not 0 <= index < len(test):
            refused.append(Refusal(position, index, f"wrong index: the board has the images 0 to {len(test) - 1}"))
        elif index in seen:
            refused.append(Refusal(position, index, "duplicated index: an earlier image of the file is for it as well"))
        else:
            seen.add(index)
            claims.append(Claim(position, index, image))
    return claims, refused, unchanged


def _nearest(images: np.ndarray, clean: np.ndarray) -> list[int]:
    """Return the place of the nearest clean image of each image, -1 for one that is not finite.

    Of clean images that are copies of each other the first is taken that no earlier image has taken.
    """
    flat = clean.reshape(len(clean), -1).astype(np.float64)
    squares, taken, found = (flat**2).sum(1), set[int](), []
    for start in range(0, len(images), _BLOCK):
        part = images[start : start + _BLOCK].reshape(-1, flat.shape[1]).astype(np.float64)
        finite = np.asarray(np.isfinite(part).all(axis=1))
        part = np.where(finite[:, None], part, 0)
        with np.errstate(over="ignore", invalid="ignore"):
            distances = (part**2).sum(1)[:, None] - 2 * part @ flat.T + squares
        for row, ok in zip(distances, finite, strict=True):
            if not ok or not np.isfinite(row).all():
                found.append(-1)
                continue
            near = np.flatnonzero(row <= row.min() + TIE * max(1.0, float(abs(row.min()))))
            place = int(next((i for i in near.tolist() if i not in taken), near[0]))
            taken.add(place)
            found.append(place)
    return found
