"""Count the floating-point operations of a training step: a cost that no other work on the machine can move."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry  # of convolutions and products, in real numbers

from bench.training.gradients import Loss, first_line
from bench.training.hooks import set_epoch

COMPLEX: Final = 4  # products of real numbers in one of complex ones
FOURIER: Final = {  # operations of a transform of L numbers, over L log₂ L
    torch.ops.aten._fft_r2c: 2.5,
    torch.ops.aten._fft_c2r: 2.5,
    torch.ops.aten._fft_c2c: 5.0,
}
FEW: Final = (2, 3, 4)  # images of the steps that tell what an image costs from what a step costs once


@dataclass(frozen=True, slots=True)
class FlopCount:
    """What training computes, in operations of convolutions, matrix products and inverses, and Fourier transforms.

    Attributes:
        per_image: floating-point operations per image and step, a multiply and an add counted as two; None: unknown.
        how: on what it was counted, or why it is unknown.
    """

    per_image: float | None
    how: str

    def as_data(self) -> dict[str, float | str]:
        """Return the count as plain data, as the store keeps it."""
        known = {} if self.per_image is None else {"flops_per_image": self.per_image}
        return {**known, "flops_counted": self.how}


def operations(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: Any) -> int:
    """Return the floating-point operations of one dispatched operation; 0 where it has no formula.

    A product of complex numbers is four real ones; the inverse of n×n costs 2n³ (LU, Higham 2002, section 14); a
    Fourier transform of L numbers 5 L log₂ L, half of that where one side is real (as FFTW counts it).

    Args:
        func: torch's operation.
        args: its arguments.
        kwargs: its arguments by name.
        out: what it returned.
    """
    packet = func._overloadpacket
    if packet in FOURIER:
        side = out if packet is torch.ops.aten._fft_c2r else args[0]
        length = math.prod(side.shape[axis] for axis in args[1])
        return side.numel() // length * round(FOURIER[packet] * length * math.log2(length))
    factor = COMPLEX if args and isinstance(args[0], Tensor) and args[0].is_complex() else 1
    if packet is torch.ops.aten.linalg_inv_ex:
        return factor * 2 * args[0].numel() * args[0].shape[-1]
    formula = flop_registry.get(packet)
    return 0 if formula is None else factor * formula(*args, **kwargs, out_val=out)


class _Counter(TorchDispatchMode):
    """Add up the operations of everything with a formula that is dispatched inside the block.

    torch's own FlopCounterMode also tracks modules through hooks that a double backward does not pass.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        self.total += operations(func, args, kwargs or {}, out)
        return out


def count_flops(
    build: Callable[[], nn.Module], loss: Loss, images: Tensor, labels: Tensor, *, batch_size: int, epochs: int
) -> FlopCount:
    """Count what a training computes per image, before it begins.

    Steps on two, three and four images tell what every image costs from what a step costs once. Where the operations do
    not grow with the images in equal steps, or such a step cannot run, a step at full batch size runs on torch's
    "meta" device, which has shapes and no numbers. Where modules have a number that depends on the epoch, and the
    last epoch costs other than the first, every epoch is counted.

    Args:
        build: makes an untrained network; it is called once or twice, and draws from torch's generators.
        loss: `loss(model, x (B, C, H, W), y (B,)) -> {name: scalar}`, summed.
        images: a few training images in [0, 1], (m, C, H, W), repeated if fewer than four.
        labels: theirs, (m,).
        batch_size: images per step of the training.
        epochs: of the training, ≥ 1.

    Returns:
        The count, or why there is none.
    """
    rows = torch.arange(max(FEW)) % len(images)
    few = partial(_on_few, loss=loss, x=images[rows], y=labels[rows], batch_size=batch_size)
    whole = partial(_on_shapes, loss=loss, shape=images.shape[1:], batch_size=batch_size)
    cause = "its operations do not grow evenly with the images of a step"
    for count, how, device in ((few, f"on {max(FEW)} images", "cpu"), (whole, "on shapes", "meta")):
        try:
            per_image = _over_epochs(build().to(device), epochs, count)
        except (
            Exception
        ) as error:  # a defense is foreign code: on so few images, or without numbers, it may raise anything
            cause = first_line(error)
            continue
        if per_image is not None:
            none = FlopCount(None, "a step has no convolution or matrix product")
            return FlopCount(per_image, how) if per_image > 0 else none
    return FlopCount(None, f"a step could not be counted: {cause}")


def _on_few(model: nn.Module, *, loss: Loss, x: Tensor, y: Tensor, batch_size: int) -> float | None:
    """Return the operations per image of a batch, from steps on few images; None if these do not grow evenly."""
    a, b, c = (_step(model, loss, x[:m], y[:m]) for m in FEW)
    return (b - a) + (a - FEW[0] * (b - a)) / batch_size if b - a == c - b else None


def _on_shapes(model: nn.Module, *, loss: Loss, shape: torch.Size, batch_size: int) -> float:
    """Return the operations per image of a batch, from a step without numbers."""
    x = torch.empty(batch_size, *shape, device="meta")
    return _step(model, loss, x, torch.empty(batch_size, dtype=torch.long, device="meta")) / batch_size


def _over_epochs(model: nn.Module, epochs: int, count: Callable[[nn.Module], float | None]) -> float | None:
    """Return the mean over the epochs of a count, None if one of them has none."""

    def at(epoch: int) -> float | None:
        set_epoch(model, epoch)
        return count(model)

    first, last = at(0), at(epochs - 1)
    if first == last:
        return first
    counts = [at(epoch) for epoch in range(epochs)]
    known = [c for c in counts if c is not None]
    return sum(known) / epochs if len(known) == epochs else None


def _step(model: nn.Module, loss: Loss, x: Tensor, y: Tensor) -> int:
    """Return the operations of the forward and backward passes of one training step."""
    model.train()
    model.zero_grad(set_to_none=True)
    with _Counter() as step, torch.enable_grad():
        torch.stack([term.float() for term in loss(model, x, y).values()]).sum().backward()
    return step.total
