"""A stand-in for a device that is not the CPU: real numbers, and an error wherever the two are mixed.

Its tensors say that they live on "meta" and hold an ordinary tensor inside, on which every operation is carried out.
What a GPU refuses is refused: an operand of one dimension or more from the CPU, a CPU generator, a view as an array.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")
# Where torch lets a GPU's tensor be indexed by a CPU's, and where data change device.
MIXED = ("aten.index.", "aten.index_put", "aten._index_put_impl_", "aten._to_copy.", "aten.copy_.")


class Remote(Tensor):
    """A tensor elsewhere."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> Remote:
        self = Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=ELSEWHERE,
        )  # fmt: skip
        self.inner = inner
        return self

    def __repr__(self) -> str:
        return f"Remote({self.inner})"

    def __getitem__(self, key: Any) -> Tensor:
        # torch would read a list's numbers below the level at which this class sees operations
        keys = key if isinstance(key, tuple) else (key,)
        return super().__getitem__(tuple(torch.tensor(k) if isinstance(k, list) else k for k in keys))

    def tolist(self) -> Any:
        return self.inner.tolist()

    def numpy(self, **_: Any) -> Any:
        raise TypeError("expected a tensor on the CPU, got one elsewhere. Call .cpu() first.")

    __array__ = numpy

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carried_out(function, args, kwargs or {})


class _Elsewhere(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _carried_out(function, args, kwargs or {})


def _carried_out(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves = tree_leaves((args, kwargs))
    result_elsewhere = any(isinstance(a, Remote) for a in leaves)
    if result_elsewhere and not str(function).startswith(MIXED):
        near = [a.shape for a in leaves if isinstance(a, Tensor) and not isinstance(a, Remote) and a.dim() > 0]
        assert not near, f"{function}: operands from both devices, {near} on the CPU"
    if (device := kwargs.get("device")) is not None:
        result_elsewhere = torch.device(device).type == ELSEWHERE.type
        kwargs = {**kwargs, "device": torch.device("cpu")}
        assert not (result_elsewhere and kwargs.get("generator")), f"{function}: a CPU generator for another device"
    result = function(*tree_map(_inside, args), **tree_map(_inside, kwargs))
    written = [a.alias_info is not None and a.alias_info.is_write for a in function._schema.arguments[:1]]
    if written == [True]:  # in place
        return args[0]
    if "out" in kwargs:
        return kwargs["out"]
    return tree_map(lambda a: Remote(a) if isinstance(a, Tensor) and result_elsewhere else a, result)


def _inside(value: Any) -> Any:
    return value.inner if isinstance(value, Remote) else value


def sent(model: nn.Module) -> nn.Module:
    """Return a copy of a network whose parameters and buffers are elsewhere."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                module._parameters[name] = nn.Parameter(Remote(parameter.detach()), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = Remote(buffer)
    return model


@contextmanager
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """Yield a device that is not the CPU."""
    monkeypatch.setattr(torch, "tensor", _made_here(torch.tensor))
    monkeypatch.setattr(torch, "as_tensor", _made_here(torch.as_tensor))
    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with _Elsewhere():
            yield ELSEWHERE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(before)


def _made_here(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a maker of tensors from Python's numbers that makes them on the CPU and sends them."""

    def made(data: Any, *, device: Any = None, **settings: Any) -> Tensor:
        if isinstance(data, Tensor):
            return data.to(device=device, **settings) if device or settings else data
        value = make(data, **settings)
        return value if device is None else value.to(device)

    return made
