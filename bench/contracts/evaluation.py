"""The contract of an evaluation: documented columns, numbers of the image alone, the same again, model untouched."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from torch import nn

from bench.contracts.contract import CPU, OnDigits, Promise, require
from bench.core.records import Evaluation
from bench.data.split import Dataset
from bench.measuring.runner import evaluate_chunks

# Cheap settings of costly arguments; an evaluation that has such an argument is run with it.
CHEAP: Final = {"steps": 10, "n_queries": 30, "draws": 2, "eps": [0.3], "radius": [0.01], "radii": [0.01]} | {
    "iterations": 6
}
IMAGES: Final = 6
RELATIVE, ABSOLUTE = 2e-2, 1e-4  # difference of floats allowed between batch sizes


class EvaluationContract(OnDigits):
    """The promises of one evaluation, tried on a small network on digits.

    Args:
        entry: the evaluation; one that reads other cells cannot be tried alone.
        data: digits; None: they are loaded.
        model: a trained network; None: one is trained.
    """

    def __init__(self, entry: Evaluation, data: Dataset | None = None, model: nn.Module | None = None) -> None:
        super().__init__(data)
        self._entry = entry
        self._given = model
        self._before: dict[str, torch.Tensor] = {}

    @property
    def promises(self) -> Mapping[str, Promise]:
        """Each promise in words, to what tries it."""
        return {
            "it documents every column that it returns": self.documented,
            "numbers belong to the image, not to its batch": self.ignores_the_batch,
            "twice it gives the same": self.repeats,
            "the model is left as it was": self.leaves_the_model,
        }

    def documented(self) -> None:
        """Compare the columns with those that the decorator declares."""
        known = [_pattern(pattern) for pattern in self._entry.columns]
        found = [name for name in self._first if name not in ("index", "label")]
        require(bool(found), "expected columns, got none. Return {name: one value per image}.")
        foreign = [name for name in found if not any(p.fullmatch(name) for p in known)]
        require(not foreign, f"expected columns of @evaluation(columns=…), got {', '.join(foreign[:3])}. Declare them.")
        bare = [name for name, column in self._entry.columns.items() if not column.description]
        require(not bare, f"expected a description of every column, got none of {', '.join(bare)}.")

    def ignores_the_batch(self) -> None:
        """Measure the images together and one by one."""
        whole, single = self._first, self.table(batch_size=1)
        for name in whole:
            if pd.api.types.is_float_dtype(whole[name]):
                same = np.allclose(single[name], whole[name], rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
            else:
                same = list(single[name]) == list(whole[name])
            require(
                bool(same), f"{name}: expected the same numbers one by one, got others. Reduce nothing over images."
            )

    def repeats(self) -> None:
        """Measure twice; the caller's generators must be left alone."""
        first, rng = self._first, torch.get_rng_state()
        again = self.table()
        require(first.equals(again), "expected the same numbers again, got others. Draw from seed.")
        require(torch.equal(torch.get_rng_state(), rng), "expected torch's generator untouched, got it moved.")

    def leaves_the_model(self) -> None:
        """Compare parameters, buffers and gradients before and after."""
        _ = self._first
        changed = [name for name, value in self.model.state_dict().items() if not value.equal(self._before[name])]
        require(not changed, f"expected its weights untouched, got changes in {', '.join(changed[:3])}.")
        left = [name for name, p in self.model.named_parameters() if p.grad is not None or not p.requires_grad]
        require(not left, f"expected parameters as they were, got gradients or frozen ones in {', '.join(left[:3])}.")

    @functools.cached_property
    def _first(self) -> pd.DataFrame:
        """The table, measured once for all promises; `_before` is the model's state until then."""
        self._before = {name: value.clone() for name, value in self.model.state_dict().items()}
        return self.table()

    def table(self, **options: Any) -> pd.DataFrame:
        """Return the evaluation's table on a few images, with settings that cost little.

        Args:
            **options: of `evaluate_chunks`.
        """
        defaults = {name: value for name, value in self._entry.hyperparameters.items() if value is not ...}
        arguments = defaults | {name: value for name, value in CHEAP.items() if name in defaults}
        split = self._data.test.first(IMAGES)
        chunks = evaluate_chunks(self._entry, self.model, split, CPU, arguments=arguments, seed=0, **options)
        return pd.concat([chunk.table for chunk in chunks], ignore_index=True)

    @functools.cached_property
    def model(self) -> nn.Module:
        """A trained network with softplus activations."""
        return self._trained_network() if self._given is None else self._given


def _pattern(text: str) -> re.Pattern[str]:
    """Return what a column's pattern matches: numbers in the place of its arguments."""
    return re.compile(re.sub(r"\\\{\w+\\\}", r"[-+.e0-9]+", re.escape(text)))
