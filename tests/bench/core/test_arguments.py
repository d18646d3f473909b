"""Numbers of any numeric type and "8/255" are accepted; the rest is refused in one line."""

from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch

from bench.core.arguments import real, reals, whole
from bench.core.errors import UsageError

HALVES = [0.5, Fraction(1, 2), Decimal("0.5"), "0.5", "1/2", " 127.5 / 255 ", np.float32(0.5), np.float64(0.5),
          np.array(0.5), np.array([0.5]), torch.tensor(0.5), torch.tensor([0.5], dtype=torch.float16)]  # fmt: skip


@pytest.mark.parametrize("value", HALVES, ids=repr)
def test_a_number_of_any_type_is_the_number(value):
    assert real("eps", value) == 0.5
    assert reals("eps", value) == [0.5]


@pytest.mark.parametrize(
    "value",
    [True, None, "", "half", "1/0", "nan", float("nan"), float("inf"), 1j, np.array([1.0, 2.0]), [0.5], 10**400],
    ids=lambda v: repr(v)[:20],
)
def test_what_is_no_finite_number_is_refused(value):
    with pytest.raises(UsageError, match="evaluate: eps: expected a finite number, got") as caught:
        real("evaluate: eps", value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


def test_several_numbers():
    assert reals("eps", ["8/255", 0.5]) == [8 / 255, 0.5]
    assert reals("eps", np.array([0.25, 0.5], np.float32)) == [0.25, 0.5]
    assert reals("eps", torch.tensor([0.25, 0.5])) == [0.25, 0.5]
    with pytest.raises(UsageError, match="expected at least one number, got none"):
        reals("eps", [])


@pytest.mark.parametrize("value", [3, 3.0, np.int64(3), np.uint8(3), np.float32(3), torch.tensor(3)], ids=repr)
def test_a_whole_number_of_any_type(value):
    found = whole("limit", value, 1)
    assert found == 3
    assert type(found) is int


@pytest.mark.parametrize("value", [0, -1, 2.5, True, None, "3", 2**63, float("nan"), [1]], ids=repr)
def test_what_is_no_whole_number_in_range_is_refused(value):
    with pytest.raises(UsageError, match="limit: expected a whole number from 1 up, got"):
        whole("limit", value, 1)
