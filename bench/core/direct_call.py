"""What a registered attack gets around it, so that calling it directly is as safe as a suite."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.core.arguments import real, whole
from bench.core.errors import UsageError
from bench.core.ranges import check_ranges
from bench.core.settable import settable_parameters

if TYPE_CHECKING:
    from torch import Tensor


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return an attack whose arguments are checked and whose surroundings cannot change its result.

    The caller's global switches are set to torch's defaults meanwhile (`known_state`); the images are detached, so
    that the returned points are, and no gradient is added to `x.grad`. `eps` and `seed` may be of any numeric type,
    or "8/255"; labels of any integer type. Numbers outside the ranges that the signature declares are refused.

    Args:
        function: `attack(model, x, y, *, eps, norm, seed, …) -> x_adv`.
    """
    annotations = {name: p.annotation for name, p in settable_parameters(function).items()}

    @functools.wraps(function)
    def call(model: Any, x: Tensor, y: Tensor, **arguments: Any) -> Any:
        from bench.core.torch_state import known_state

        name = function.__name__
        if "eps" in arguments:
            arguments["eps"] = real(f"{name}: eps", arguments["eps"])
            if arguments["eps"] < 0:
                raise UsageError(f"{name}: eps: expected a radius ≥ 0, got {arguments['eps']}. Change it.")
        if "seed" in arguments:
            arguments["seed"] = whole(f"{name}: seed", arguments["seed"])
        check_ranges(name, arguments, annotations)
        with known_state():
            _check_model(name, model)
            return function(model, _images(name, x), _labels(name, y, len(x)), **arguments)

    return call


def _check_model(name: str, model: object) -> None:
    """Refuse what is no module, and parameters that autograd cannot work with."""
    from torch import nn

    from bench.core.torch_state import inference_tensors

    if not isinstance(model, nn.Module):
        raise UsageError(
            f"{name}: expected the model to be an nn.Module, got {type(model).__name__}. Write bench.wrap(model)."
        )
    if found := inference_tensors(model):
        raise UsageError(
            f"{name}: expected parameters made outside torch.inference_mode(), got {found[0]} made inside it. "
            "Build or load the model outside of it."
        )


def _images(name: str, x: Tensor) -> Tensor:
    """Return the images detached, and usable by autograd."""
    from torch import Tensor

    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise UsageError(f"{name}: expected images as a floating-point tensor (B, C, H, W), got {got}. Convert them.")
    if x.numel():
        low, high = (float(v) for v in x.detach().aminmax())
        if not (low >= 0 and high <= 1):
            raise UsageError(
                f"{name}: expected pixels in [0, 1], got [{low!r}, {high!r}]. Put normalisation inside the model."
            )
    return x.clone().detach() if x.is_inference() else x.detach()


def _labels(name: str, y: Tensor, n: int) -> Tensor:
    """Return the labels as int64."""
    import torch
    from torch import Tensor

    if not isinstance(y, Tensor) or y.shape != (n,) or y.is_floating_point() or y.dtype == torch.bool:
        got = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise UsageError(f"{name}: expected {n} labels as an integer tensor (B,), got {got}. Pass class numbers.")
    if n and int(y.min()) < 0:
        raise UsageError(f"{name}: expected labels from 0 up, got {int(y.min())}. Pass class numbers.")
    return y.detach().long().clone() if y.is_inference() else y.detach().long()
