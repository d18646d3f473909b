"""What is fetched from the device after an epoch and after an evaluation does not grow with the number of tensors."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.core.torch_state import changed_tensors
from bench.training.epoch import nonfinite

aten = torch.ops.aten


class Fetched(TorchDispatchMode):
    """Counts operations whose result is a number of Python, and copies of answers, of which each is one wait."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function in {aten.equal.default, aten._local_scalar_dense.default, aten.is_nonzero.default}
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("layers", [1, 40])
def test_one_question_for_all_tensors(layers: int) -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(layers)))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with Fetched() as fetched:
        assert not nonfinite(model)
        assert not changed_tensors(before, model.state_dict())
    assert fetched.count == 0  # the stacked answers are fetched whole, which is no such operation
    with torch.no_grad():
        model[-1].bias[1] = torch.nan
    name = f"{layers - 1}.bias"
    assert nonfinite(model) == {name}
    assert changed_tensors(before, model.state_dict()) == [name]
