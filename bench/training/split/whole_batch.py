"""What a network computes over its whole batch although each process has a part: batch norm, and random draws.

`WholeBatch` replaces torch's functions while the loss of a part is computed:

- batch norm in training mode takes mean and variance over all parts, as one process would. Its gradients, to any order,
  flow through the sums over the processes: the gradient of the sum over processes reaches every part.
- numbers drawn for each image (`torch.rand`, `randn`, `randint`, `rand_like`, `randn_like`, `uniform_`, `normal_`, with
  as many rows as the part has images) are drawn for the whole batch, of which the part is taken: the draws are those of
  one process. All processes have the same generators.

torch's SyncBatchNorm needs GPUs and has no second derivative; DistributedDataParallel neither takes losses that
differentiate gradients.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bench.core.split_batch import split
from bench.training.split.group import Group

Given: TypeAlias = MutableMapping[str, Any]  # arguments of any function of torch, by name


class _GroupSum(torch.autograd.Function):
    """Sum of a tensor over the processes; its gradient is the sum of theirs, differentiable again."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return group.sum_(values.detach().clone(memory_format=torch.contiguous_format))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _GroupSum.apply(grad, ctx.group), None


class WholeBatch(TorchFunctionMode):
    """Inside the block, batch norm and draws are those of the whole batch.

    Args:
        group: the processes.
        images: of the whole batch.
    """

    def __init__(self, group: Group, images: int) -> None:
        super().__init__()
        self._group, self._images, self._part = group, images, group.part(images)
        self._mine = self._part.stop - self._part.start
        self._split = contextlib.ExitStack()

    def __enter__(self) -> WholeBatch:
        """Begin."""
        self._split.enter_context(split())
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *raised: Any) -> None:
        """End."""
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        self._split.close()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch, or what takes its place."""
        given = dict(kwargs or {})
        replaced = _REPLACED.get(func)
        return func(*args, **given) if replaced is None else replaced(self, func, args, given)

    def batch_norm(self, func: Callable[..., Any], args: tuple[Any, ...], given: Given) -> Any:
        """Stand for `F.batch_norm`: in training mode over all parts."""
        named = dict(zip(_BATCH_NORM, args, strict=False)) | dict(given)
        if not named.get("training", False):
            return func(*args, **given)
        momentum = 0.1 if named.get("momentum") is None else float(named["momentum"])
        statistics = named.get("running_mean"), named.get("running_var")
        y = self._normalised(named["input"], statistics, momentum, float(named.get("eps", 1e-5)))
        shape = (1, -1, *[1] * (y.dim() - 2))
        for key, change in (("weight", torch.mul), ("bias", torch.add)):
            y = y if named.get(key) is None else change(y, named[key].view(shape))
        return y

    def _normalised(
        self, x: Tensor, statistics: tuple[Tensor | None, Tensor | None], momentum: float, eps: float
    ) -> Tensor:
        """Return (x − μ)/√(σ² + eps) with the whole batch's μ and σ² per channel; update the running ones."""
        dims, shape = [d for d in range(x.dim()) if d != 1], (1, -1, *[1] * (x.dim() - 2))
        wide = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        count = wide.new_full((1,), wide.numel() // wide.shape[1])
        total = _GroupSum.apply(torch.cat([wide.sum(dims), count]), self._group)
        n = total[-1].detach()
        mean = total[:-1] / n
        centred = wide - mean.view(shape)
        var = _GroupSum.apply(centred.square().sum(dims), self._group) / n
        with torch.no_grad():
            for running, now in zip(statistics, (mean, var * n / (n - 1)), strict=True):
                if running is not None:
                    running.lerp_(now.to(running.dtype), momentum)
        return (centred * (var + eps).rsqrt().view(shape)).to(x.dtype)

    def sized(self, func: Callable[..., Any], args: tuple[Any, ...], given: Given) -> Any:
        """Stand for a function that is given a size: where it begins with the part's images, draw for all of them."""
        if "size" in given:
            before, size = args, tuple(given.pop("size"))
        elif args and not isinstance(args[-1], int):
            before, size = args[:-1], tuple(args[-1])
        else:
            before, size = (), args
        if not self._of_images(size):
            return func(*before, size, **given)
        return func(*before, (self._images, *size[1:]), **given)[self._part]

    def alike(self, func: Callable[..., Any], args: tuple[Any, ...], given: Given) -> Any:
        """Stand for a function that is given a tensor like which it draws."""
        like = args[0] if args else given.pop("input")
        if not self._of_images(like.shape):
            return func(like, *args[1:], **given)
        return func(self._whole(like), *args[1:], **given)[self._part]

    def in_place(self, func: Callable[..., Any], args: tuple[Any, ...], given: Given) -> Any:
        """Stand for a method that fills a tensor."""
        tensor = args[0]
        if not self._of_images(tensor.shape):
            return func(*args, **given)
        return tensor.copy_(func(self._whole(tensor), *args[1:], **given)[self._part])

    def _of_images(self, size: Sequence[int]) -> bool:
        """Tell whether a size is that of something which the part has one of for each image."""
        return len(size) > 0 and size[0] == self._mine

    def _whole(self, like: Tensor) -> Tensor:
        """Return an empty tensor for all images, in type, place and layout like the part's."""
        last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last) and not like.is_contiguous()
        layout = torch.channels_last if last else torch.contiguous_format
        size = (self._images, *like.shape[1:])
        return torch.empty(size, dtype=like.dtype, device=like.device, memory_format=layout)


_BATCH_NORM: Final = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_REPLACED: Final[Mapping[Callable[..., Any], Callable[..., Any]]] = {
    F.batch_norm: WholeBatch.batch_norm,
    torch.rand: WholeBatch.sized,
    torch.randn: WholeBatch.sized,
    torch.randint: WholeBatch.sized,
    torch.rand_like: WholeBatch.alike,
    torch.randn_like: WholeBatch.alike,
    torch.Tensor.uniform_: WholeBatch.in_place,
    torch.Tensor.normal_: WholeBatch.in_place,
}
