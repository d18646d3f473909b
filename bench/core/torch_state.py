"""Torch's and a model's switches: known global state, evaluation mode, TF32, autocast, what is at work on a call."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

DENORMAL: Final = 1e-39  # a float32 below the normal range: 0 where the processor flushes such numbers
SMALL_IMAGE: Final = 256  # values per image below which a second thread costs more than it computes
_inside = threading.local()  # whether this thread is in a `known_state`


@contextlib.contextmanager
def known_state() -> Iterator[None]:
    """Set every global switch that a result can depend on to torch's default inside the block, and put it back.

    Inference mode and no_grad are off, gradients on; nothing is cast; new tensors are float32 on the CPU; no algorithm
    is forced to be deterministic, none chosen by trial; anomaly detection is off; products have their full precision;
    denormal numbers count; numpy warns as it does by default. Random generators and threads are left alone. Within
    another such block nothing is done: what was set in there on purpose stays.
    """
    if getattr(_inside, "known", False):
        yield
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        if torch.is_anomaly_enabled():
            stack.enter_context(torch.autograd.set_detect_anomaly(False))  # type: ignore[no-untyped-call]
        stack.enter_context(torch.autograd.set_multithreading_enabled(True))  # type: ignore[no-untyped-call]
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        stack.enter_context(_default_dtype())
        stack.enter_context(_default_algorithms())
        stack.enter_context(_default_precision())
        stack.enter_context(_denormals())
        _inside.known = True
        stack.callback(setattr, _inside, "known", False)
        yield


def inference_tensors(model: nn.Module) -> list[str]:
    """Return the names of parameters and buffers that were made in inference mode: autograd refuses them."""
    return [name for name, t in (*model.named_parameters(), *model.named_buffers()) if t.is_inference()]


@contextlib.contextmanager
def _default_dtype() -> Iterator[None]:
    """Have new tensors in float32 inside the block."""
    old = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(old)


@contextlib.contextmanager
def _default_algorithms() -> Iterator[None]:
    """Have torch choose algorithms as it does by default inside the block."""
    cudnn = torch.backends.cudnn
    strict, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    old = cudnn.enabled, cudnn.benchmark, cudnn.deterministic
    if strict:
        torch.use_deterministic_algorithms(False)
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = True, False, False
    try:
        yield
    finally:
        cudnn.enabled, cudnn.benchmark, cudnn.deterministic = old
        if strict:
            torch.use_deterministic_algorithms(True, warn_only=warn)


@contextlib.contextmanager
def _default_precision() -> Iterator[None]:
    """Have products in float32 keep their precision inside the block, on a CPU too, which may use bfloat16."""
    try:
        named = torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer switches are in use, which `holders` covers
        named = "highest"
    mkldnn = torch.backends.mkldnn
    holders = [getattr(mkldnn, name) for name in ("matmul", "conv", "rnn") if hasattr(mkldnn, name)]
    old = [(h, h.fp32_precision) for h in holders if getattr(h, "fp32_precision", "none") not in ("none", "ieee")]
    if named != "highest":
        torch.set_float32_matmul_precision("highest")
    for holder, _ in old:
        holder.fp32_precision = "ieee"
    try:
        yield
    finally:
        for holder, value in old:
            holder.fp32_precision = value
        if named != "highest":
            torch.set_float32_matmul_precision(named)


@contextlib.contextmanager
def _denormals() -> Iterator[None]:
    """Have denormal numbers count inside the block; torch says by no other sign whether they are flushed."""
    flushed = float(torch.tensor(DENORMAL, device="cpu") * 1.0) == 0.0
    if flushed:
        torch.set_flush_denormal(False)
    try:
        yield
    finally:
        if flushed:
            torch.set_flush_denormal(True)


@contextlib.contextmanager
def threads_for(pixels: int) -> Iterator[None]:
    """Use one thread inside the block for images of fewer than 256 values, whatever the caller has set.

    Args:
        pixels: values per image.
    """
    old = torch.get_num_threads()
    if pixels < SMALL_IMAGE and old != 1:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if torch.get_num_threads() != old:
            torch.set_num_threads(old)


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode inside the block and give each its own mode back afterwards.

    Passes in there leave running statistics and spectral vectors alone.
    """
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]  # a frozen script
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


def eager() -> contextlib.AbstractContextManager[object]:
    """Return a context in which compiled models run as they are written."""
    if "torch._dynamo" not in sys.modules:  # nothing is compiled, and the import takes seconds
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")


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


def whole_batch(tensor: Tensor) -> Tensor:
    """Return the tensor with all entries of the torch.func batches around it: what really passes through a network.

    The batch of `torch.autograd.grad(…, is_grads_batched=True)`, an older kind of its own, counts as well.
    """
    while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
        tensor = torch._C._functorch.get_unwrapped(tensor)
    if torch._C._functorch.is_legacy_batchedtensor(tensor):
        tensor = torch._remove_batch_dim(tensor, 1, 1, 0)  # type: ignore[attr-defined]
    return tensor


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have the same shape, type and bits: NaN equals itself, −0 does not equal 0.

    Tensors on the meta device have no bits: shape and type decide.
    """
    return not changed_tensors({"": a}, {"": b})


def changed_tensors(before: Mapping[str, Tensor], after: Mapping[str, object]) -> list[str]:
    """Return the names of the tensors that are not the same bits (`same_bits`) after something, in their order.

    All comparisons are launched before any answer is fetched: a GPU is waited for once, not per tensor.

    Args:
        before: name → tensor.
        after: what the names stand for now; a name that is gone does not count.
    """
    pairs = {k: (old, new) for k, old in before.items() if isinstance(new := after.get(k), Tensor)}
    comparable = {
        k: (a, b) for k, (a, b) in pairs.items() if (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
    }
    answers = [(_bits(a) == _bits(b)).all() for a, b in comparable.values() if not a.is_meta]
    same = iter(torch.stack(answers).tolist() if answers else [])
    return [k for k, (a, _) in pairs.items() if k not in comparable or not (a.is_meta or next(same))]


def _bits(values: Tensor) -> Tensor:
    """Return the tensor's content as integers."""
    values = values.int_repr() if values.is_quantized else values
    values = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.detach().contiguous().view(integers[values.element_size()])
