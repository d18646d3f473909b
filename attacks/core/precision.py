"""TF32: faster products of fewer digits on a GPU, for whoever searches; nothing on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 inside the block, and put the switches back."""
    conv, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    knobs: list[tuple[Any, str, Any, Any]]
    try:
        knobs = [(conv, "allow_tf32", conv.allow_tf32, allowed), (matmul, "allow_tf32", matmul.allow_tf32, allowed)]
    except RuntimeError:  # the newer switches are in use, after which torch refuses to read the older ones
        holders = (conv.conv, conv.rnn, matmul)  # type: ignore[attr-defined]
        knobs = [(h, "fp32_precision", h.fp32_precision, "tf32" if allowed else "ieee") for h in holders]
    for holder, name, _, value in knobs:
        setattr(holder, name, value)
    try:
        yield
    finally:
        for holder, name, old, _ in knobs:
            setattr(holder, name, old)
