"""Whether a training may be split over processes: tried on a few images before it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn

from bench.core.errors import UsageError
from bench.core.seeding import derive, seed_everything
from bench.training.gradients import Autocast, Loss, forward_terms
from bench.training.split.group import Group
from bench.training.split.step import split_gradients

IMAGES: Final = 8  # per process; uneven parts are tried by one more
CLOSE: Final = 1e-3  # relative to the term and to the gradient's norm; rounding is below 1e-4
LOW_PRECISION: Final = 30.0  # times that in TF32 and bfloat16
NEARLY: Final = 1e-6  # images are made darker by this share, to see what rounding does
AMPLIFIED: Final = 10.0  # times what that changed is allowed


class NotSplitError(UsageError):
    """A training that cannot be split over processes; raised in each of them."""


def check_split(
    label: str,
    build: Callable[[], nn.Module],
    loss: Loss,
    autocast: Autocast,
    images: tuple[Tensor, Tensor],
    group: Group,
    *,
    smallest: int,
    rounded: bool,
) -> None:
    """Compute loss and gradient of a few images in one process and over all, and refuse what differs.

    Args:
        label: of the training, for messages.
        build: returns the untrained network on its device, in training mode.
        loss: `loss(model, x, y) -> terms`.
        autocast: makes the context of the forward passes.
        images: x (B, C, H, W), y (B,), of which the first few are taken.
        group: the processes.
        smallest: images of the smallest batch.
        rounded: whether products have fewer digits than float32.

    Raises:
        NotSplitError: they differ by more than rounding, or a batch has fewer images than there are processes.
    """
    if smallest < group.size:
        raise NotSplitError(
            f"{label}: expected at least {group.size} images in each batch, one for each process, got {smallest}. Take "
            "a larger batch_size or fewer processes."
        )
    x, y = (values[: IMAGES * group.size + 1] for values in images)
    model = build()
    state = {k: v.clone() for k, v in model.state_dict().items()}

    def computed(how: Callable[[], Mapping[str, Tensor]]) -> _Computed:
        model.load_state_dict(state)
        model.zero_grad(set_to_none=True)
        seed_everything(derive("split"))
        return _Computed(how(), _gradient(model))

    alone = computed(lambda: _alone(model, loss, autocast, x, y))
    nearly = computed(lambda: _alone(model, loss, autocast, x * (1 - NEARLY), y))
    split = computed(lambda: split_gradients(model, loss, autocast, x, y, group)[0])
    # The first process decides for all: another one may round otherwise.
    wrong = "" if group.rank else _difference(alone, nearly, split, CLOSE * (LOW_PRECISION if rounded else 1.0))
    wrong = group.send(wrong.encode()).decode()
    if wrong:
        raise NotSplitError(
            f"{label}: expected a training that gives the same over {group.size} processes as in one, got {wrong} on "
            f"{len(y)} images. Its loss has a term that is no mean over the batch, or it draws or normalises over the "
            "batch by other functions than torch.rand, randn and batch_norm. Train it in one process."
        )


@dataclass(frozen=True)
class _Computed:
    """Loss terms, and all gradients as one vector."""

    terms: Mapping[str, Tensor]
    gradient: Tensor


def _alone(model: nn.Module, loss: Loss, autocast: Autocast, x: Tensor, y: Tensor) -> Mapping[str, Tensor]:
    """Put the gradients of a batch into the parameters in one process; return the terms."""
    total, terms, _ = forward_terms(model, loss, autocast, x, y)
    total.backward()
    return terms


def _gradient(model: nn.Module) -> Tensor:
    """Return all gradients as one vector."""
    return torch.cat([p.grad.reshape(-1).double() for p in model.parameters() if p.grad is not None])


def _difference(alone: _Computed, nearly: _Computed, split: _Computed, close: float) -> str:
    """Return in words what differs by more than rounding, "" if nothing does.

    Args:
        alone: in one process.
        nearly: in one process, of images that differ by rounding: an ascent that starts near zero turns rounding into
            directions.
        split: over the processes.
        close: relative difference that is always rounding.
    """
    if list(alone.terms) != list(split.terms):
        return f"the terms {', '.join(split.terms)} instead of {', '.join(alone.terms)}"
    for name in alone.terms:
        a, b, c = (float(found.terms[name]) for found in (alone, split, nearly))
        if not abs(a - b) <= close * (1e-3 + abs(a)) + AMPLIFIED * abs(a - c):
            return f"{name} {b:.6g} instead of {a:.6g}"
    length = float(alone.gradient.norm().clamp_min(1e-30))
    apart, rounding = (float((alone.gradient - found.gradient).norm()) / length for found in (split, nearly))
    return "" if apart <= 10 * close + AMPLIFIED * rounding else f"a gradient that differs by {100 * apart:.2g} %"
