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
from bench.measuring.witness import Witness

Values = Mapping[int, Any]  # place of an image in the data set to its value, or to its stored image (C, H, W)


@dataclass(frozen=True)
class BatchInputs:
    """The inputs of one batch.

    Attributes:
        rank: place of each image in a random order of the cell's, int64 (B,): samples of any size are its first ones;
            None: not known.
        images: of the cell.
        kept: of these, robust by the own run's values; 0 where those are not known.
        passes: of the own run's attack per image, forward and backward; None: not known.
        witness: answers for the model without any question before; None: there is none.
        own: role to the same run's values, (B,), or images, (B, C, H, W).
        others: role to run label to that run's values or images. Where a run has no stored image it is the clean one.
    """

    own: Mapping[Role, Tensor] = field(default_factory=dict)
    others: Mapping[Role, Mapping[str, Tensor]] = field(default_factory=dict)
    rank: Tensor | None = None
    images: int = 0
    kept: int = 0
    passes: float | None = None
    witness: Witness | None = None


@dataclass(frozen=True)
class CellInputs:
    """The inputs of a whole cell: role to values by place, of the own run, and of the others by label.

    Attributes:
        own: of the own run.
        others: of the other runs.
        passes: of the own run's reference attack per image, forward and backward; None: it has none.
        witness: answers for the model without any question before; None: there is none.
    """

    own: Mapping[Role, Values] = field(default_factory=dict)
    others: Mapping[Role, Mapping[str, Values]] = field(default_factory=dict)
    passes: float | None = None
    witness: Witness | None = None

    def batch(self, places: Sequence[int], x: Tensor, whole: Sequence[int] | None = None) -> BatchInputs:
        """Return the inputs of a batch.

        Args:
            places: places of its images in the data set.
            x: the images (B, C, H, W).
            whole: places of all images of the cell; None: the batch is the cell.

        Raises:
            BenchError: a value of an image is missing.
        """
        everyone = list(places if whole is None else whole)
        order = dict(zip(everyone, np.random.RandomState(0).permutation(len(everyone)).tolist(), strict=True))
        robust = self.own.get("robust", {})
        return BatchInputs(
            rank=torch.tensor([order[place] for place in places], device=x.device),
            images=len(everyone),
            kept=sum(bool(robust[place]) for place in everyone if place in robust),
            passes=self.passes,
            witness=self.witness,
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
