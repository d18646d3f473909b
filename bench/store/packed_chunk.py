"""A chunk of an evaluation as the bytes that are stored: what computes it packs it, in whichever process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from bench.core.errors import IntegrityError, UsageError
from bench.core.records import Column
from bench.store import serialise
from bench.store.bounded import MOST_IMAGES


@dataclass(frozen=True, slots=True)
class PackedChunk:
    """What is stored of one chunk.

    Attributes:
        number: from 0.
        data: its table as an Arrow stream, see `serialise.pack_table`.
        images: its stored images, see `serialise.pack_arrays`; None: there are none.
        info: counts and seconds.
    """

    number: int
    data: bytes
    images: bytes | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    def require_readable(self, cell: str) -> None:
        """Refuse bytes that cannot be read back.

        Args:
            cell: id of the cell, for messages.

        Raises:
            IntegrityError: they cannot.
        """
        try:
            serialise.unpack_table(self.data)
            if self.images is not None:
                serialise.unpack_arrays(self.images)
        except ValueError as error:
            raise IntegrityError(
                f"cell {cell[:12]}: expected chunk {self.number} that can be read, got {error}. Run again."
            ) from error


def pack_chunk(
    number: int,
    table: pd.DataFrame,
    images: Mapping[str, np.ndarray] | None,
    info: Mapping[str, Any],
    columns: Mapping[str, Column] | None = None,
    *,
    cell: str = "",
) -> PackedChunk:
    """Return a chunk as it is stored.

    Args:
        number: from 0.
        table: one row per image, with `index` and `label`.
        images: index, clean, adversarial and prediction of the stored images; None: there are none.
        info: counts and seconds.
        columns: name to what the column is.
        cell: id of the cell, for messages.

    Raises:
        UsageError: the images are more than a chunk can hold.
    """
    if (size := sum(array.nbytes for array in (images or {}).values())) > MOST_IMAGES:
        raise UsageError(
            f"cell {cell[:12]}: expected at most {MOST_IMAGES:,} bytes of adversarial images in a chunk, got "
            f'{size:,}. Set store_adversarial = "primary", or attack at fewer budgets.'
        )
    packed = serialise.pack_arrays(images) if images else None
    return PackedChunk(number, serialise.pack_table(table, columns), packed, info)
