"""Functions whose gradient is not theirs, for the tests of trust."""

from __future__ import annotations

import torch


class Negated(torch.autograd.Function):
    """The identity with a gradient of the wrong sign."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        return -grad
