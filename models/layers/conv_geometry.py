"""The linear map of a zero-padded convolution, (Cin, H, W) → (Cout, H', W'), and its transpose."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.layers.conv_arguments import pair


@dataclass(frozen=True, slots=True)
class ConvGeometry:
    """Everything about a zero-padded convolution but its weight: the linear map (Cin, H, W) → (Cout, H', W').

    Attributes:
        in_size: (H, W).
        out_size: (H', W').
        kernel: (vertical, horizontal).
        stride: (vertical, horizontal).
        padding: pixels of zeros on each side, (vertical, horizontal).
        dilation: (vertical, horizontal).
        groups: blocks of channels that do not mix.
    """

    in_size: tuple[int, int]
    out_size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int

    @classmethod
    def of(cls, conv: nn.Conv2d, in_size: tuple[int, int], *, authors_size: bool = False) -> ConvGeometry:
        """Return the geometry of a layer that gets inputs (B, Cin, *in_size).

        Args:
            conv: whose kernel size, stride, padding, dilation and groups count.
            in_size: (H, W).
            authors_size: take instead the size whose transposed convolution has an output of `in_size` (2H − 1 for
                stride 2 and kernel 3, padding 1), as the authors' code does for strided layers.

        Raises:
            ValueError: padding that is not zeros or not numbers, or an image smaller than the kernel.
        """
        if conv.padding_mode != "zeros" or isinstance(conv.padding, str):
            raise ValueError(
                f"ConvGeometry: expected zero padding given in pixels, got padding={conv.padding!r}, "
                f"padding_mode={conv.padding_mode!r}. Pad in numbers; other paddings are other linear maps."
            )
        kernel, stride, dilation = pair(conv.kernel_size), pair(conv.stride), pair(conv.dilation)
        padding = pair(conv.padding)
        reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
        if authors_size:
            sizes = zip(in_size, stride, padding, reach, strict=True)
            in_size = pair([(n - 1) * s - 2 * p + r for n, s, p, r in sizes])
        out = [(n + 2 * p - r) // s + 1 for n, p, r, s in zip(in_size, padding, reach, stride, strict=True)]
        if min(out) < 1:
            raise ValueError(
                f"ConvGeometry: expected an input that the kernel fits in, got {tuple(in_size)} for a reach of "
                f"{tuple(reach)} and padding {padding}. Use a larger image or fewer strided layers."
            )
        return cls(pair(in_size), pair(out), kernel, stride, padding, dilation, conv.groups)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """Return the map without bias of x (B, Cin, H, W), (B, Cout, H', W').

        Args:
            x: images.
            weight: (Cout, Cin/groups, kh, kw).

        Returns:
            (B, Cout, H', W').
        """
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, self.groups)

    def adjoint(self, u: Tensor, weight: Tensor) -> Tensor:
        """Return the transposed map of u (B, Cout, H', W'), (B, Cin, H, W).

        Args:
            u: images of the output's size.
            weight: (Cout, Cin/groups, kh, kw).

        Returns:
            (B, Cin, H, W).
        """
        extra = [
            n - ((m - 1) * s - 2 * p + d * (k - 1) + 1)
            for n, m, s, p, d, k in zip(
                self.in_size, self.out_size, self.stride, self.padding, self.dilation, self.kernel, strict=True
            )
        ]
        return F.conv_transpose2d(u, weight, None, self.stride, self.padding, extra, self.groups, self.dilation)
