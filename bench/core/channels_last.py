"""Where channels last is not safe: convolutions on a CPU at which torch may end the process."""

from __future__ import annotations

from typing import Final

from torch import Tensor, nn

CHANNELS: Final = 8  # input channels from which it does not


def crashes(weight: Tensor, stride: tuple[int, ...]) -> bool:
    """Tell whether torch may end the process at a float32 convolution in channels last on a CPU.

    torch 2.15 does on processors with AVX2 and without AVX-512 where a 1×1 kernel skips pixels and has fewer than 8
    input channels, as in the shortcut of a ResNet of width 4.

    Args:
        weight: (Cout, Cin, kH, kW).
        stride: of the convolution.

    Returns:
        True where it has been seen to.
    """
    return tuple(weight.shape[2:]) == (1, 1) and max(stride) > 1 and weight.shape[1] < CHANNELS


def is_safe(model: nn.Module) -> bool:
    """Tell whether none of a network's convolutions is one at which torch `crashes`."""
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    return not any(crashes(layer.weight, layer.stride) for layer in convolutions)
