"""What an evaluation reads of other cells, aligned with its batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.core.errors import BenchError
from bench.core.records import Role

Values = Mapping[int, Any]  # place of an image in the data set to its value, or to its stored image (C, H, W)


@dataclass(frozen=True)
class BatchInputs:
    """The inputs of one batch.

    Attributes:
        own: role to the same run's values, (B,), or images, (B, C, H, W).
        others: role to run label to that run's values or images. Where a run has no stored image it is the clean one.
    """

    own: Mapping[Role, Tensor] = field(default_factory=dict)
    others: Mapping[Role, Mapping[str, Tensor]] = field(default_factory=dict)


@dataclass(frozen=True)
class CellInputs:
    """The inputs of a whole cell: role to values by place, of the own run, and of the others by label."""

    own: Mapping[Role, Values] = field(default_factory=dict)
    others: Mapping[Role, Mapping[str, Values]] = field(default_factory=dict)

    def batch(self, places: Sequence[int], x: Tensor) -> BatchInputs:
        """Return the inputs of a batch.

        Args:
            places: places of its images in the data set.
            x: the images (B, C, H, W).

        Raises:
            BenchError: a value of an image is missing.
        """
        return BatchInputs(
            own={role: _aligned(role, values, places, x) for role, values in self.own.items()},
            others={
                role: {label: _aligned(role, values, places, x) for label, values in runs.items()}
                for role, runs in self.others.items()
            },
        )


def _aligned(role: Role, values: Values, places: Sequence[int], x: Tensor) -> Tensor:
    if role == "adversarial":
        images = x.clone()
        for row, place in enumerate(places):
            if place in values:
                images[row] = torch.from_numpy(values[place]).to(x)
        return images
    if missing := [place for place in places if place not in values]:
        raise BenchError(
            f"inputs: expected a value of role {role!r} for each image, got none for image {missing[0]}. "
            "Measure both evaluations on the same images."
        )
    return torch.as_tensor(np.asarray([values[place] for place in places]), device=x.device)


def column_values(table: pd.DataFrame, column: str) -> Values:
    """Return place in the data set to value, of a column of a stored table."""
    return dict(zip(table["index"].tolist(), table[column].tolist(), strict=True))


def image_values(images: Mapping[str, np.ndarray]) -> Values:
    """Return place in the data set to adversarial example (C, H, W), of stored images: `index` and `adversarial`."""
    return dict(zip(images["index"].tolist(), images["adversarial"], strict=True)) if images else {}
