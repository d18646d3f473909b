"""Gradients of a step's loss from one compiled graph, double backward included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.training.gradients import Autocast, Computed, EagerGradients, Log, Loss, first_line, forward_terms


class CompiledGradients:
    """Gradients by compiled code: the whole computation is traced once, for batches of `size` images.

    Forward, loss, double backward and gradients are one graph of plain operations, so that no derivative has to
    leave compiled code and be differentiated again. Random draws stay torch's own. Other batch sizes run eagerly,
    and so does everything if tracing or compiling fails, after one line in the log.

    Args:
        model: in training mode.
        loss: `loss(model, x, y) -> terms`.
        autocast: makes the context of the forward passes.
        size: images of a batch that is worth compiling for.
        log: called once if compiling fails.
        backend: of torch.compile; None: only trace.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, autocast: Autocast, *, size: int, log: Log, backend: str | None = "inductor"
    ) -> None:
        self.eager, self.size, self.log, self.backend = EagerGradients(model, loss, autocast), size, log, backend
        self.possible = True
        self.compiled: Callable[[Tensor, Tensor], Computed] | None = None

    def __call__(self, x: Tensor, y: Tensor) -> Computed:
        """Put the gradients into the parameters; return the loss terms and the first logits."""
        if len(x) != self.size or not self.possible:
            return self.eager(x, y)
        if self.compiled is not None:
            return self.compiled(x, y)
        try:
            compiled = _compile(self.eager, x, y, self.backend)
            computed = compiled(x, y)  # compiles; a failure comes before anything has been computed
        except Exception as error:
            self.possible = False
            self.log(
                f"training step: expected one that compiles, got {first_line(error)}. Going on uncompiled, slower."
            )
            return self.eager(x, y)
        self.compiled = compiled
        return computed

    def invalidate(self) -> None:
        """Trace anew at the next batch."""
        self.compiled = None


def _compile(eager: EagerGradients, x: Tensor, y: Tensor, backend: str | None) -> Callable[[Tensor, Tensor], Computed]:
    """Trace the gradients of a batch like x, y and compile the graph."""
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.nn.utils.stateless import _reparametrize_module

    model = eager.model
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    trained = [n for n, p in model.named_parameters() if p.requires_grad]

    def whole(values: list[Tensor], x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor | None, list[Any]]:
        own = dict(zip(tensors, values, strict=True))
        with _reparametrize_module(model, own), torch.enable_grad():
            total, terms, logits = forward_terms(model, eager.loss, eager.autocast, x, y)
            return terms, logits, list(torch.autograd.grad(total, [own[n] for n in trained], allow_unused=True))

    traced = make_fx(whole, tracing_mode="fake")(list(tensors.values()), x, y)
    run: Callable[..., Any] = traced
    if backend is not None:
        options: dict[str, str | int | bool | Callable[..., object]] = {}
        if backend == "inductor":
            options["fallback_random"] = True
        run = torch.compile(traced, backend=backend, dynamic=False, options=options)

    def gradients(x: Tensor, y: Tensor) -> Computed:
        with torch.no_grad():
            terms, logits, found = run(list(tensors.values()), x, y)
        for name, gradient in zip(trained, found, strict=True):
            tensors[name].grad = gradient
        return terms, logits

    return gradients
