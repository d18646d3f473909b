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
    """Yield the model in eval mode, without parameter gradients, TF32 off, autograd on; leave it as found.

    Args:
        model: logits (B, K) from images (B, C, H, W).
        precision: "float32" works on the model itself; "float64" on a deep copy in double precision.

    Raises:
        UsageError: another precision.
    """
    if precision not in DTYPES:
        raise UsageError(f"precision: expected float32 or float64, got {precision!r}. Choose one of the two.")
    if precision == "float64":
        model = _double(model)
    modes = [(m, m.training) for m in model.modules()]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    with ExitStack() as stack:
        stack.enter_context(_without_tf32())
        stack.enter_context(torch.enable_grad())
        try:
            model.eval()
            for p, _ in wanted:
                p.requires_grad_(False)
            yield model
        finally:
            for p, flag in wanted:
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

    Raises:
        BenchError: the model computes in another dtype somewhere, so that a float64 check would see rounding.
    """
    found: object
    try:
        logits = model(x)
        found = logits.dtype
    except RuntimeError as error:
        if x.dtype != torch.float64 or not any(word in str(error) for word in ("dtype", "Double", "scalar type")):
            raise
        logits, found = None, error
    if logits is None or logits.dtype != x.dtype:
        raise BenchError(
            f"model {type(model).__name__}: expected {x.dtype} throughout a copy of that dtype, got {found}. "
            "Keep constants in buffers and cast nothing inside forward."
        )
    return logits


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Switch TF32 off: it moves ‖H‖ of a standard net by 15 % (median), and cuDNN's default is on."""
    cudnn: Any = torch.backends.cudnn
    places: list[Any] = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
    saved = [p.fp32_precision for p in places]
    try:
        for p in places:
            p.fp32_precision = "ieee"
        yield
    finally:
        for p, value in zip(places, saved, strict=True):
            p.fp32_precision = value
