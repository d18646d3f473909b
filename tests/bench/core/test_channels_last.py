"""Networks narrow enough to end the process in channels last are trained and attacked in the other layout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from bench.attacks.core.folding import fold_constants
from bench.core import channels_last, registry
from bench.core.recipe import PAPER, Recipe
from bench.data.split import Split
from bench.training.loop import TrainJob, train

CPU = torch.device("cpu")
SHAPE = (3, 16, 16)


def has_last(tensors: list[torch.Tensor]) -> bool:
    """Tell whether all kernels that tell the layouts apart, (Cout, Cin, 3, 3), are channels last."""
    wide = [t for t in tensors if t.ndim == 4 and t.shape[2] > 1 and t.shape[1] > 1]
    assert wide
    return all(t.is_contiguous(memory_format=torch.channels_last) for t in wide)


@pytest.mark.parametrize(
    ("kernel", "stride", "channels", "crashes"),
    [(1, 2, 4, True), (1, 2, 7, True), (1, 2, 8, False), (1, 1, 4, False), (3, 2, 4, False)],
)
def test_which_convolutions_crash(kernel: int, stride: int, channels: int, crashes: bool) -> None:
    layer = nn.Conv2d(channels, 8, kernel, stride)
    assert channels_last.crashes(layer.weight, layer.stride) is crashes
    assert channels_last.is_safe(nn.Sequential(layer)) is not crashes


@pytest.mark.parametrize(("backbone", "last"), [("resnet18-w4", False), ("resnet18-w8", True)])
@pytest.mark.parametrize("name", ["standard", "lcnn"])
def test_a_narrow_network_is_trained_and_attacked_in_rows(name: str, backbone: str, last: bool) -> None:
    """Where the other layout crashes, these lines end the process."""
    rng = np.random.default_rng(0)
    split = Split.of(rng.random((24, *SHAPE)).astype(np.float32), rng.integers(0, 3, 24))
    entry = registry.defenses.get(name)
    recipe = PAPER.with_overrides(entry.recipe, Recipe(epochs=1, batch_size=8, augment="none"))
    model = train(TrainJob(entry, dict(entry.hyperparameters), recipe, backbone, 3, SHAPE, 0, split), CPU)
    x = torch.rand(4, *SHAPE, requires_grad=True)
    fast = fold_constants(model.requires_grad_(False), x.detach(), 1000)
    assert fast is not model
    (gradient,) = torch.autograd.grad(fast(x).square().sum(), x)
    assert gradient.isfinite().all()
    assert has_last([layer.weight for layer in fast.modules() if hasattr(layer, "settings")]) is last
