"""`bench.wrap`: make a model of anything that maps images to logits, with normalisation, size and choice of output."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.arguments import reals, whole
from bench.core.errors import UsageError

Output: TypeAlias = "str | int | Callable[[Any], Tensor]"


class Wrapped(nn.Module):
    """A model from float32 images in [0, 1] to float32 logits around a model of another kind; see `wrap`."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        model: Callable[..., Any],
        mean: Sequence[float],
        std: Sequence[float],
        size: tuple[int, int] | None,
        output: Output | None,
    ) -> None:
        super().__init__()
        modules = [model] if isinstance(model, nn.Module) else _modules_in(model)
        self.inside = nn.ModuleList(modules)  # so that its modes, weights and device are known
        self._function = None if isinstance(model, nn.Module) else model
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.size, self.output = size, output

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) in float32 of images (B, C, H, W) in [0, 1]; x is copied, never edited."""
        if self.size is not None:
            x = F.interpolate(x, self.size, mode="bilinear", align_corners=False, antialias=True)
        x = (x - self.mean) / self.std
        precision = next((p.dtype for p in self.inside.parameters() if p.is_floating_point()), x.dtype)
        answer = (self._function or self.inside[0])(x.to(precision))
        if self.output is not None:
            answer = _chosen(answer, self.output)
        return answer.to(torch.float32) if isinstance(answer, Tensor) and answer.is_floating_point() else answer


def wrap(
    model: Callable[..., Any],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | tuple[int, int] | None = None,
    output: Output | None = None,
) -> nn.Module:
    """Return a model that keeps the contract (B, C, H, W) in [0, 1] → float32 logits, around one of another kind.

    Images are resized, then normalised, then converted to the type of the model's weights. They are copies: the model
    may edit them.

    Args:
        model: an nn.Module, or a function of a batch. Modules that a function uses (in its closure, by a global name,
            as the object of a method, in a partial) are set to eval mode and frozen like a model's; others are left to
            the caller.
        mean: subtracted from each channel of images in [0, 1]; None: 0.
        std: divided by, per channel; None: 1.
        resize: height and width (or one number for both) that the model takes; bilinear, with antialiasing.
        output: where the logits are in the model's answer: a key or an attribute such as "logits", the place in a
            tuple, or a function of the answer; None: the answer itself.

    Returns:
        The module.

    Raises:
        UsageError: an argument is of another kind, or a std is not positive.
    """
    if not callable(model):
        raise UsageError(f"wrap: expected a model or a function, got {type(model).__name__}. Pass a callable.")
    if output is not None and not isinstance(output, str | int) and not callable(output):
        raise UsageError(
            f'wrap: output: expected a name, a place or a function, got {type(output).__name__}. Write output="logits".'
        )
    means = [0.0] if mean is None else reals("wrap: mean", mean)
    stds = [1.0] if std is None else reals("wrap: std", std)
    if min(stds) <= 0:
        raise UsageError(f"wrap: std: expected positive numbers, got {min(stds)}. Check the order of mean and std.")
    if len(means) != len(stds) and 1 not in (len(means), len(stds)):
        raise UsageError(f"wrap: expected as many std as mean, got {len(stds)} and {len(means)}. One per channel.")
    size = None
    if resize is not None:
        sides = list(resize) if isinstance(resize, tuple | list) else [resize, resize]
        if len(sides) != 2:
            raise UsageError(f"wrap: resize: expected (height, width), got {len(sides)} numbers. Give one or two.")
        size = (whole("wrap: resize", sides[0], 1), whole("wrap: resize", sides[1], 1))
    wrapped = Wrapped(model, means, stds, size, output)
    wrapped.training = wrapped.inside.training = any(m.training for m in wrapped.inside)
    place = next((t.device for t in (*wrapped.inside.parameters(), *wrapped.inside.buffers())), torch.device("cpu"))
    wrapped.mean, wrapped.std = wrapped.mean.to(place), wrapped.std.to(place)
    return wrapped


def _chosen(answer: Any, output: Output) -> Any:
    """Return the logits of an answer.

    Raises:
        UsageError: there is nothing of that name or place.
    """
    if not isinstance(output, str | int):
        return output(answer)
    try:
        if isinstance(output, str) and not isinstance(answer, Mapping):
            return getattr(answer, output)
        return answer[output]
    except (AttributeError, KeyError, IndexError, TypeError) as error:
        raise UsageError(
            f"wrap: output: expected {output!r} in the model's answer, got {type(answer).__name__} without it. "
            "Name another."
        ) from error


def _modules_in(function: Any) -> list[nn.Module]:
    """Return the modules that a function holds: in partials, as the object of a method, in its closure, by name."""
    held: list[Any] = []
    while isinstance(function, functools.partial):
        held += [*function.args, *function.keywords.values()]
        function = function.func
    held += [function, getattr(function, "__self__", None)]
    held += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    code, names = getattr(function, "__code__", None), getattr(function, "__globals__", {})
    held += [names[name] for name in getattr(code, "co_names", ()) if name in names]
    found = {id(m): m for m in held if isinstance(m, nn.Module)}
    return list(found.values())
