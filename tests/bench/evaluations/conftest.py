"""Fixtures of the geometry's tests: small networks with real layers, images, dense references."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.bench.networks import KINDS, Dense, settled


@pytest.fixture(params=list(KINDS))
def model(request) -> nn.Module:
    return settled(request.param)


@pytest.fixture
def lcnn() -> nn.Module:
    return settled("lcnn")


@pytest.fixture
def standard() -> nn.Module:
    return settled("standard")


@pytest.fixture
def images() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.rand(6, 1, 6, 6, generator=generator), torch.arange(6) % 5


@pytest.fixture
def dense():
    return Dense
