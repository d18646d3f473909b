"""A copy of the process answers as the model did before it was asked anything."""

import pytest
import torch
from torch import nn

from bench.measuring.witness import Witness


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return x.flatten(1)[:, :2] + self.calls


class Fails(nn.Module):
    def forward(self, x):
        raise RuntimeError


@pytest.fixture
def x():
    return torch.rand(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))


def test_it_has_no_history_but_its_own(x):
    model = Counting()
    with Witness.start(model) as witness:
        model(x), model(x)
        assert torch.equal(witness.logits(x), x.flatten(1)[:, :2] + 1)
        assert torch.equal(witness.logits(x[:1]), x[:1].flatten(1)[:, :2] + 2)
        large = torch.rand(400, 3, 32, 32)  # more than a pipe holds
        assert witness.logits(large).shape == (400, 2)
    assert model.calls == 2


def test_one_that_cannot_answer_says_nothing(x):
    with Witness.start(Fails()) as witness:
        assert witness.logits(x) is None
        assert witness.logits(x) is None
