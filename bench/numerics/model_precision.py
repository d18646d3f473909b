"""A model made ready for differentiation: eval mode, constant weights, float32 without TF32 or float64."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench.core.errors import BenchError, UsageError

DTYPES = {"float32": torch.float32, "float64": torch.float64}


@contextmanager
def differentiable_eval(model: nn.Module, precision: str = "float32") -> Iterator[nn.Module]:
    """Put a model in eval mode, without parameter gradients, TF32 off and autograd on; restore it afterwards.

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
    modes = [(m, m.training) for m in model.modules()]
    requires_grad = [(p, p.requires_grad) for p in model.parameters()]
    with ExitStack() as stack:
        stack.enter_context(_without_tf32())
        stack.enter_context(torch.enable_grad())
        try:
            model.eval()
            for p, _ in requires_grad:
                p.requires_grad_(False)
            yield model
        finally:
            for p, flag in requires_grad:
                p.requires_grad_(flag)
            for m, flag in modes:
                m.training = flag


def _double(model: nn.Module) -> nn.Module:
    """Return a copy of the model in double precision.

    Raises:
        BenchError: the model cannot be copied.
    """
    try:
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
    """
    try:
        logits: Tensor = model(x)
    except RuntimeError as error:
        if x.dtype == torch.float64 and any(word in str(error) for word in ("dtype", "Double", "scalar type")):
            raise _mixed_dtypes(model, x, error) from error
        raise
    if logits.dtype != x.dtype:
        raise _mixed_dtypes(model, x, logits.dtype)
    return logits


def _mixed_dtypes(model: nn.Module, x: Tensor, got: object) -> BenchError:
    """Return the error for a model that does not compute in its input's dtype throughout."""
    return BenchError(
        f"model {type(model).__name__}: expected {x.dtype} throughout a copy of that dtype, got {got}. "
        "Keep constants in buffers and cast nothing inside forward."
    )


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Switch TF32 off: it moves ‖H‖ of a standard net by 15 % (median), and cuDNN's default is on."""
    cudnn: Any = torch.backends.cudnn
    backends: list[Any] = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
    saved = [b.fp32_precision for b in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, value in zip(backends, saved, strict=True):
            backend.fp32_precision = value
