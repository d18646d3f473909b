"""The arguments of torch.conv2d, read in one way by all that replaces its calls or takes its settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

Size = int | Sequence[int]
# Stride, padding, dilation, (vertical, horizontal) each, and groups.
Conv2dGeometry = tuple[tuple[int, int], tuple[int, int], tuple[int, int], int]


class Conv2dArguments(NamedTuple):
    """What torch.conv2d was called with.

    Attributes:
        x: (B, Cin, H, W), or (Cin, H, W).
        weight: (Cout, Cin/groups, kh, kw).
        bias: (Cout,), or None.
        stride: one number or (vertical, horizontal).
        padding: likewise, or "same" or "valid".
        dilation: likewise.
        groups: blocks of channels that do not mix.
    """

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    stride: Size
    padding: Size | str
    dilation: Size
    groups: int


def conv2d_arguments(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Conv2dArguments:
    """Return the arguments of a call of torch.conv2d, whichever way they were given.

    Args:
        input: as in torch.conv2d, like all others.
        weight: see `Conv2dArguments`.
        bias: see `Conv2dArguments`.
        stride: see `Conv2dArguments`.
        padding: see `Conv2dArguments`.
        dilation: see `Conv2dArguments`.
        groups: see `Conv2dArguments`.
    """
    return Conv2dArguments(input, weight, bias, stride, padding, dilation, groups)


def pair(values: Size) -> tuple[int, int]:
    """Return (vertical, horizontal) of a setting given as one number or two.

    Args:
        values: a number, or a sequence of one or two.
    """
    if isinstance(values, int):
        return values, values
    return int(values[0]), int(values[-1])
