"""What an evaluation returns is checked: names, lengths, values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.core.errors import BenchError
from bench.core.records import Column
from bench.measuring.columns import LONGEST, checked_columns

FACTS = {"flag": Column("", kind="flag"), "value": Column(""), "count": Column("", kind="count")}
REFUSED = {
    "no dict": ([1, 2], "expected a dict of columns, got list"),
    "too short": ({"value": torch.zeros(1)}, "expected 2 values in column 'value', got 1"),
    "a single one": ({"value": 3.0}, "got a single one"),
    "infinite": ({"value": [0.0, float("inf")]}, "got infinity for 1 of 2 images (first at position 1"),
    "minus infinite": ({"other": [-float("inf")] * 2}, "got infinity for 2 of 2 images (first at position 0"),
    "a flag that is NaN": ({"flag": [0.0, float("nan")]}, "expected finite numbers, got NaN"),
    "an image with NaN": ({"x": torch.full((2, 1, 2, 2), torch.nan)}, "got NaN for 2 of 2 images"),
    "complex": ({"value": [1j, 2j]}, "expected numbers, flags or texts, got complex128"),
    "objects": ({"value": [object(), None]}, "expected numbers, flags or texts, got object"),
    "dates": ({"value": np.array(["2020-01-01"] * 2, dtype="M8[D]")}, "expected numbers, flags or texts"),
    "reserved": ({"index": [0, 1]}, "expected a column's name that is not defense, index, label, seed, got 'index'"),
    "no name": ({3: [0, 1]}, "printable characters, got int"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str) -> None:
    columns, words = REFUSED[case]
    with pytest.raises(BenchError) as caught:
        checked_columns("evaluation e", columns, FACTS, 2)
    assert words in str(caught.value)
    assert str(caught.value).startswith("evaluation e: ")


def test_nan_is_missing_in_values_and_counts() -> None:
    columns = {"value": torch.tensor([torch.nan, 1.0]), "count": [np.nan, 2.0], "flag": [True, False]}
    found = checked_columns("evaluation e", columns, FACTS, 2)
    assert np.isnan(found["value"][0])
    assert np.isnan(found["count"][0])
    assert found["flag"].dtype == bool


def test_texts_are_cleaned_and_flags_may_be_missing() -> None:
    columns = {"text": ["\x1b[31mred\ud800", "x" * 10_000], "maybe": np.array([True, None], dtype=object)}
    found = checked_columns("evaluation e", columns, {}, 2)
    assert found["text"][0] == "[31mred\ufffd"
    assert len(found["text"][1]) == LONGEST
    assert found["maybe"].tolist() == [True, None]
