"""Switches are put back, whatever happens inside, and bits are compared as bits."""

import pytest
import torch
from torch import nn

from bench.core.torch_state import eval_mode, frozen_eval, full_precision, same_bits, tf32


def mixed():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    net[1].eval()
    net[0].bias.requires_grad_(False)
    return net


def flags(net):
    return [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()]


@pytest.mark.parametrize("context", [eval_mode, frozen_eval])
def test_modes_and_gradients_are_put_back_after_an_error(context):
    net = mixed()
    before = flags(net)
    inside = []

    def fail():
        with context(net):
            inside.append(flags(net))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    (modes, gradients) = inside[0]
    assert not any(modes)
    assert any(gradients) is (context is eval_mode)
    assert flags(net) == before


def test_tf32_is_put_back():
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    for allowed in (True, False):
        with tf32(allowed):
            assert torch.backends.cudnn.allow_tf32 is torch.backends.cuda.matmul.allow_tf32 is allowed
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


def test_full_precision_within_full_precision_and_tf32():
    with tf32(True), full_precision("cpu"), full_precision("cpu"):
        assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]), True),
        (torch.tensor(torch.nan), torch.tensor(torch.nan), True),
        (torch.tensor(0.0), torch.tensor(-0.0), False),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64), False),
        (torch.tensor([1.0]), torch.tensor(1.0), False),
        (torch.tensor([True]), torch.tensor([True]), True),
        (torch.tensor([2, 3]), torch.tensor([2, 4]), False),
        (torch.tensor([1.0], dtype=torch.bfloat16), torch.tensor([1.0], dtype=torch.bfloat16), True),
        (torch.tensor([1 + 2j]), torch.tensor([1 + 2j]), True),
        (torch.tensor([1 + 2j]), torch.tensor([1 - 2j]), False),
        (torch.zeros(0, 3), torch.zeros(0, 3), True),
        (torch.arange(6.0).view(2, 3).T, torch.arange(6.0).view(2, 3).T.contiguous(), True),
    ],
)
def test_bits(a, b, same):
    assert same_bits(a, b) is same
