"""Out of memory: one exception for every way in which torch reports it, and batches that halve when it happens."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import torch
from torch import Tensor

from bench.core.errors import OutOfMemoryError

T = TypeVar("T")
# What torch's allocators and libraries write into a plain RuntimeError when memory runs out.
MESSAGES: Final = (
    "can't allocate memory",  # the CPU allocator
    "not enough memory",  # the CPU allocator on Windows
    "out of memory",  # "CUDA out of memory", "CUDA error: out of memory", HIP, MPS
    "std::bad_alloc",
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_(HOST|DEVICE)_ALLOCATION_FAILED
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # of cublasCreate: no memory for its workspace
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUSPARSE_STATUS_INSUFFICIENT_RESOURCES",
    "CUFFT_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
)


def ran_out(error: BaseException) -> bool:
    """Tell whether an exception says, in whatever way, that memory ran out."""
    if isinstance(error, RuntimeError) and any(message in str(error) for message in MESSAGES):
        return True
    return isinstance(error, torch.OutOfMemoryError | MemoryError | OutOfMemoryError)


@contextlib.contextmanager
def out_of_memory_detected(where: str) -> Iterator[None]:
    """Raise `OutOfMemoryError` for whatever reports inside the block that memory ran out; pass on other errors.

    Args:
        where: what was computed, for the message.

    Raises:
        OutOfMemoryError: memory ran out.
    """  # noqa: DOC501 - other errors of the block pass through
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not ran_out(error):
            raise
        raise OutOfMemoryError(
            f"{where}: expected the batch to fit into memory, got out of memory. Use a smaller batch size."
        ) from error


def on_fewer_images(x: Tensor, compute: Callable[[Tensor], T]) -> T:
    """Return what a function gives for images; where memory runs out, for the first half of them, a quarter, ….

    Args:
        x: images (B, C, H, W).
        compute: what is computed of them, or of the first ones alone.

    Raises:
        OutOfMemoryError: not even one image fits.
    """
    n = len(x)
    while True:
        try:
            return compute(x[:n])
        except OutOfMemoryError:
            if n <= 1:
                raise
        n //= 2
        torch.cuda.empty_cache()


@dataclass
class HalvingBatches:
    """Runs a computation in batches of images; a batch that does not fit into memory is tried again at half the size.

    Attributes:
        where: what is computed, for the message.
        size: images per batch, ≥ 1; it stays at what fitted.
        halved: whether memory ran out.
    """

    where: str
    size: int
    halved: bool = False

    def run(self, rows: range, compute: Callable[[slice], T]) -> list[T]:
        """Return the results of all batches, in order.

        Args:
            rows: places of the images.
            compute: returns the result for the images at the places of a slice.

        Raises:
            OutOfMemoryError: not even one image fits.
        """
        results: list[T] = []
        start = rows.start
        while start < rows.stop:
            stop = min(rows.stop, start + self.size)
            result = self._tried(slice(start, stop), compute)
            if result is None:
                self.size, self.halved = (stop - start) // 2, True
                torch.cuda.empty_cache()
                continue
            results.append(result[0])
            start = stop
        return results

    def _tried(self, part: slice, compute: Callable[[slice], T]) -> tuple[T] | None:
        """Return the result of one batch, None if memory ran out; the failed attempt's tensors are free on return."""
        try:
            with out_of_memory_detected(self.where):
                return (compute(part),)
        except OutOfMemoryError as error:
            if part.stop - part.start > 1:
                return None
            raise OutOfMemoryError(
                f"{self.where}: expected one image to fit into memory, got out of memory. Use a larger machine."
            ) from error
