"""A model made ready for differentiation: eval mode, constant weights, float32 without TF32 or float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bench.core.errors import BenchError, UsageError
from bench.core.torch_state import eager, frozen_eval, tf32
from bench.measuring.memory import out_of_memory_detected

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@contextmanager
def differentiable_eval(model: nn.Module, precision: str = "float32") -> Iterator[nn.Module]:
    """Put a model in eval mode, without parameter gradients, TF32 off and autograd on; restore it afterwards.

    Nothing runs compiled inside the block: compiled code has no second derivatives.

    Args:
        model: logits (B, K) from images (B, C, H, W).
        precision: "float32" works on the model itself; "float64" on a deep copy in double precision.

    Yields:
        The model, or its copy in double precision.

    Raises:
        UsageError: another precision.
    """
    if precision not in DTYPES:
        raise UsageError(f"precision: expected float32 or float64, got {precision!r}. Choose one of the two.")
    if precision == "float64":
        model = _double(model)
    with frozen_eval(model), tf32(False), torch.enable_grad(), eager():
        yield model


def _double(model: nn.Module) -> nn.Module:
    """Return a copy of the model in double precision.

    Raises:
        BenchError: the model cannot be copied.
        OutOfMemoryError: memory runs out.
    """
    try:
        with out_of_memory_detected(f"model {type(model).__name__} in float64"):
            return copy.deepcopy(model).double()
    except (RuntimeError, TypeError) as error:
        raise BenchError(
            f"model {type(model).__name__}: expected one that copy.deepcopy can copy, for float64, got {error}. "
            "Keep no tensors with history as attributes."
        ) from error


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits (B, K) of x (B, C, H, W), in the dtype of x.

    Args:
        model: logits (B, K) from images.
        x: images.

    Raises:
        BenchError: the model computes in another dtype somewhere, so that a float64 check would see rounding.
        RuntimeError: the model fails for another reason.
    """
    try:
        logits: Tensor = model(x)
    except RuntimeError as error:
        if x.dtype == torch.float64 and any(word in str(error) for word in ("dtype", "Double", "scalar type")):
            raise BenchError(_mixed_dtypes(model, x, error)) from error
        raise
    if logits.dtype != x.dtype:
        raise BenchError(_mixed_dtypes(model, x, logits.dtype))
    return logits


def _mixed_dtypes(model: nn.Module, x: Tensor, got: object) -> str:
    """Return the message for a model that does not compute in its input's dtype throughout."""
    return (
        f"model {type(model).__name__}: expected {x.dtype} throughout a copy of that dtype, got {got}. "
        "Keep constants in buffers and cast nothing inside forward."
    )
