"""A training step over several processes: each computes its part of the batch, all take the same step."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.training.gradients import Autocast, Loss, forward_terms
from bench.training.split.group import Group
from bench.training.split.whole_batch import WholeBatch


class SplitStep:
    """A step as one process would take it, up to rounding: gradients are those of the whole batch.

    Every term of the loss must be a mean over the batch, or not depend on it. With n_r of n images in process r,

        Σ_r (n_r/n)·term_r  is the term of the whole batch,

    whatever the sizes of the parts, and the gradients of n_r/n times the loss add up to its gradient, those that reach
    another part through batch norm included. `check_split` tries it before a training.

    Args:
        model: in training mode; the same weights in every process.
        optimizer: of its parameters, likewise.
        loss: `loss(model, x, y) -> terms`.
        sums: totals of the epoch, of the whole batches, see `EagerStep`.
        autocast: makes the context of the forward passes.
        group: the processes.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss: Loss,
        sums: dict[str, Tensor],
        *,
        autocast: Autocast,
        group: Group,
    ) -> None:
        self.model, self.optimizer, self.loss, self.sums = model, optimizer, loss, sums
        self._autocast, self._group = autocast, group

    def __call__(self, x: Tensor, y: Tensor, lr: float) -> None:
        """Train on the whole batch x (B, C, H, W), y (B,), which every process is given, with a learning rate."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        terms, correct = split_gradients(self.model, self.loss, self._autocast, x, y, self._group)
        self.optimizer.step()
        if x.is_cuda:  # a GPU may add up in another order in each process: what is iterated there would drift apart
            self._group.from_first_([b for b in self.model.buffers() if b.is_floating_point()])
        for name, value in {**{f"term:{k}": v * len(y) for k, v in terms.items()}, "correct": correct}.items():
            if name not in self.sums:
                self.sums[name] = torch.zeros((), dtype=torch.float64, device=y.device)
            self.sums[name].add_(value)

    def reset(self) -> None:
        """Set all sums to 0, as an epoch begins."""
        self.sums.clear()

    def invalidate(self) -> None:
        """Do nothing: every step reads the model anew."""


def split_gradients(
    model: nn.Module, loss: Loss, autocast: Autocast, x: Tensor, y: Tensor, group: Group
) -> tuple[Mapping[str, Tensor], Tensor]:
    """Put the gradients of a whole batch into the parameters, from this process's part and the others'.

    Args:
        model: in training mode.
        loss: `loss(model, x, y) -> terms`.
        autocast: makes the context of the forward passes.
        x: all images (B, C, H, W).
        y: all labels (B,).
        group: the processes.

    Returns:
        The terms of the whole batch, and how many images were right in the first forward pass, NaN if unknown.
    """
    part = group.part(len(y))
    mine, weight = y[part], (part.stop - part.start) / len(y)
    with WholeBatch(group, len(y)):
        total, terms, logits = forward_terms(model, loss, autocast, x[part], mine)
        (total * weight).backward()
    known = logits is not None and len(logits) == len(mine)
    right = (logits.argmax(1) == mine).sum() if logits is not None and known else y.new_full((), 0)
    values = [*(t * weight for t in terms.values()), right if known else torch.full_like(total, math.nan)]
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    scalars = torch.stack([v.detach().to(total.dtype) for v in values])
    flat = group.sum_(torch.cat([*(g.reshape(-1) for g in gradients), scalars]))
    for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients] + [len(values)]), strict=False):
        gradient.copy_(summed.view_as(gradient))
    found = flat[len(flat) - len(values) :].unbind()
    return dict(zip(terms, found, strict=False)), found[-1]
