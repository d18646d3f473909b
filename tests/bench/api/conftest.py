"""Images that two small networks classify with little margin, so that every attack has something to find."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def net() -> nn.Module:
    """Return a small convolutional network with batch norm, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Softplus(beta=10), nn.Flatten(), nn.Linear(64, 3)
        )
    return model.eval()


@pytest.fixture
def data(net: nn.Module) -> tuple[Tensor, Tensor]:
    """Return 12 images (12, 1, 6, 6) and the network's own predictions, three of them changed."""
    x = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = net(x).argmax(1)
    y[:3] = (y[:3] + 1) % 3
    return x, y
