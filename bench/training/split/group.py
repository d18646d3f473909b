"""The processes of one training: who is who, sums over them, and what the first one decides for all."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Final, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from bench.core.errors import BenchError

_WAITING: Final = timedelta(days=30)  # for the next training: the first process may evaluate for long meanwhile
_LONGEST_REASON: Final = 160  # characters of torch's own message


class LostProcessError(BenchError):
    """A process of the group has ended, or has not answered in time."""


class Group:
    """The processes that train together; each has the same network and optimiser, and its part of every batch.

    Sums are the same bits in every process: they are made in one place and handed out.

    Args:
        device: of this process.
        seconds: within which every process must answer; one that was killed is noticed at once on a CPU.
        backend: of torch.distributed; "gloo" on CPUs, "cpu:gloo,cuda:nccl" with GPUs.

    Attributes:
        rank: number of this process; 0 decides and stores.
        size: how many there are.
        device: of this process.
        lost: why the group cannot train any more; "" while it can.
    """

    def __init__(self, device: torch.device, seconds: float, backend: str) -> None:
        self.device, self._seconds, self.lost = device, seconds, ""
        with self._answers("join"):
            dist.init_process_group(backend, timeout=timedelta(seconds=seconds))
            self._waiting: Any = dist.new_group(backend="gloo", timeout=_WAITING)
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def part(self, images: int) -> slice:
        """Return which images of a batch are this process's: contiguous parts whose sizes differ by one at most."""
        return slice(images * self.rank // self.size, images * (self.rank + 1) // self.size)

    def sum_(self, values: Tensor) -> Tensor:
        """Add a tensor up over the processes, in place; return it."""
        with self._answers("add up"):
            dist.all_reduce(values)
        return values

    def from_first_(self, tensors: Sequence[Tensor]) -> None:
        """Give floating-point tensors of one device the first process's values, in place."""
        if not tensors:
            return
        flat = torch.cat([t.detach().reshape(-1).to(torch.float64) for t in tensors])
        with self._answers("take over"):
            dist.broadcast(flat, 0)
        for tensor, values in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.detach().copy_(values.view_as(tensor))

    def agreed(self, decide: Callable[[], bool]) -> bool:
        """Return what the first process decides, in every process.

        Args:
            decide: called in the first one.
        """
        answer = torch.tensor([self.rank == 0 and decide()], dtype=torch.uint8)
        with self._answers("decide"):
            dist.broadcast(answer, 0)
        return bool(answer.item())

    def same(self, values: Tensor) -> bool:
        """Tell whether a tensor is the same bits in every process."""
        ends = torch.cat([values, -values])
        with self._answers("compare"):
            dist.all_reduce(ends, dist.ReduceOp.MAX)
        return bool(torch.equal(ends[: len(values)], -ends[len(values) :]))

    def send(self, content: bytes, *, patient: bool = False) -> bytes:
        """Return the first process's bytes, in every process.

        Args:
            content: of the first process; the others' is not looked at.
            patient: the others wait for as long as it takes.
        """
        size, group = torch.tensor([len(content)]), self._waiting if patient else dist.group.WORLD
        with self._answers("hand out"):
            dist.broadcast(size, 0, group=group)
            body = torch.empty(int(size), dtype=torch.uint8)
            if self.rank == 0:
                body = torch.frombuffer(bytearray(content), dtype=torch.uint8) if content else body
            dist.broadcast(body, 0, group=group)
        return body.numpy().tobytes()

    def close(self) -> None:
        """Leave the group; what the others still wait for fails there."""
        self.lost = self.lost or "it was left"
        if dist.is_initialized():
            with contextlib.suppress(RuntimeError):
                dist.destroy_process_group()

    @contextlib.contextmanager
    def _answers(self, what: str) -> Iterator[None]:
        """Raise one kind of error where another process does not answer.

        Raises:
            LostProcessError: it did not.
        """
        if self.lost:
            self._refuse(self.lost)
        try:
            yield
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:_LONGEST_REASON] or type(error).__name__
            self.lost = f"a process did not {what}: {reason}"
            self._refuse(self.lost)

    def _refuse(self, got: str) -> NoReturn:
        raise LostProcessError(
            f"training over processes: expected an answer of each one within {self._seconds:g} s, got none, {got}. Run "
            "the same command again to go on from the checkpoint."
        )
