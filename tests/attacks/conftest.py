"""Digits and three small trained networks of different character."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.attacks.known import Scaled, train


@pytest.fixture(scope="session")
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """scikit-learn's digits, shuffled: 1,000 to train on, 797 to test on, (B, 1, 8, 8) in [0, 1]."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    order = torch.randperm(len(raw.target), generator=torch.Generator().manual_seed(0))
    x = torch.tensor(raw.images / 16, dtype=torch.float32)[order, None]
    y = torch.tensor(raw.target)[order]
    return x[:1000], y[:1000], x[1000:], y[1000:]


@pytest.fixture(scope="session")
def nets(digits) -> dict[str, nn.Module]:
    """Three trained networks: plain, robust (adversarially trained), saturated (the plain one's logits times 30)."""
    x, y, _, _ = digits
    plain = train(x, y, 0.0)
    return {"plain": plain, "robust": train(x, y, 0.7), "saturated": Scaled(plain, 30.0)}
