"""Torch's and a model's switches: evaluation mode, TF32, autocast, and which machinery is at work on a call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode inside the block and give each its own mode back afterwards.

    Passes in there leave running statistics and spectral vectors alone.
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextlib.contextmanager
def frozen_eval(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode without parameter gradients; restore every flag on the way out."""
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with eval_mode(model):
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, requires_grad in wanted:
                parameter.requires_grad_(requires_grad)


@contextlib.contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 inside the block, and put the switches back.

    TF32 multiplies faster with fewer digits on a GPU, whose convolutions use it unless it is forbidden: it moves the
    Hessian's norm of a standard network by 15 % (median). A CPU has none.
    """
    conv, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    switches: list[tuple[Any, str, Any, Any]]
    try:
        switches = [(conv, "allow_tf32", conv.allow_tf32, allowed), (matmul, "allow_tf32", matmul.allow_tf32, allowed)]
    except RuntimeError:  # the newer switches are in use, after which torch refuses to read the older ones
        holders = (conv.conv, conv.rnn, matmul)  # type: ignore[attr-defined]
        switches = [(h, "fp32_precision", h.fp32_precision, "tf32" if allowed else "ieee") for h in holders]
    for holder, name, _, value in switches:
        setattr(holder, name, value)
    try:
        yield
    finally:
        for holder, name, old, _ in switches:
            setattr(holder, name, old)


@contextlib.contextmanager
def full_precision(device: torch.device | str) -> Iterator[None]:
    """Switch TF32 and autocast off, and back to what they were: low precision may search, only float32 judges."""
    kind = torch.device(device).type
    cast = torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else contextlib.nullcontext()
    with tf32(False), cast:
        yield


def without_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Return a context in which nothing is cast to half precision: norms of weights need their digits."""
    return torch.autocast(device.type, enabled=False) if autocast_on(device) else contextlib.nullcontext()


def autocast_on(device: torch.device) -> bool:
    """Return whether operations on a device are cast now; False on "meta", where torch has no autocast."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def functorch_active() -> bool:
    """Return whether a torch.func transform (vmap, grad, jvp, …) is running; True where torch does not say.

    An autograd.Function that torch.func accepts costs some 40 µs more per call (torch binds its signature each
    time), so it is used only there.
    """
    active = getattr(torch._C, "_are_functorch_transforms_active", None)
    return active is None or bool(active())


def is_functorch_wrapped(tensor: Tensor) -> bool:
    """Return whether a torch.func transform wraps the tensor, whose hooks then see no real numbers."""
    return bool(torch._C._functorch.is_functorch_wrapped_tensor(tensor))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same shape, type and bits: NaN equals itself, −0 does not equal 0."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return torch.equal(_bits(a), _bits(b))


def _bits(values: Tensor) -> Tensor:
    """Return the tensor's content as integers."""
    values = values.int_repr() if values.is_quantized else values
    values = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.detach().contiguous().view(integers[values.element_size()])
