"""Gradients of a step's loss from one compiled graph, double backward included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from bench.training.gradients import Autocast, Gradients, Log, Loss, eager_gradients, first_line, forward_terms


class CompiledGradients:
    """Gradients by compiled code: the whole computation is traced once, for batches of `size` images.

    Forward, loss, double backward and gradients are one graph of plain operations, so that no derivative has to
    leave compiled code and be differentiated again. Random draws stay torch's own. Other batch sizes run eagerly,
    and so does everything if tracing or compiling fails, after one line.

    Args:
        model, loss, autocast: as for `eager_gradients`.
        size: images of a batch that is worth compiling for.
        say: told once if compiling fails.
        backend: of torch.compile; None: only trace.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, autocast: Autocast, *, size: int, say: Log, backend: str | None = "inductor"
    ) -> None:
        self.parts, self.size, self.say, self.backend = (model, loss, autocast), size, say, backend
        self.eager, self.possible = eager_gradients(model, loss, autocast), True
        self.run: Gradients | None = None

    def __call__(self, x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        """Put the gradients into the parameters; return the loss terms and the first logits."""
        if len(x) != self.size or not self.possible:
            return self.eager(x, y)
        if self.run is not None:
            return self.run(x, y)
        try:
            run = _trace(*self.parts, x, y, self.backend)
            found = run(x, y)  # compiles; a failure comes before anything has been computed
        except Exception as error:
            self.possible = False
            self.say(
                f"training step: expected one that compiles, got {first_line(error)}. Going on uncompiled, slower."
            )
            return self.eager(x, y)
        self.run = run
        return found

    def forget(self) -> None:
        """Trace anew at the next batch."""
        self.run = None


def _trace(model: nn.Module, loss: Loss, autocast: Autocast, x: Tensor, y: Tensor, backend: str | None) -> Gradients:
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.nn.utils.stateless import _reparametrize_module

    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    trained = [n for n, p in model.named_parameters() if p.requires_grad]

    def whole(values: list[Tensor], x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor | None, list[Any]]:
        own = dict(zip(tensors, values, strict=True))
        with _reparametrize_module(model, own), torch.enable_grad():
            total, terms, logits = forward_terms(model, loss, autocast, x, y)
            return terms, logits, list(torch.autograd.grad(total, [own[n] for n in trained], allow_unused=True))

    traced = make_fx(whole, tracing_mode="fake")(list(tensors.values()), x, y)
    run: Callable[..., Any] = traced
    if backend is not None:
        options: dict[str, Any] = {"fallback_random": True} if backend == "inductor" else {}
        run = torch.compile(traced, backend=backend, dynamic=False, options=options)

    def gradients(x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor | None]:
        with torch.no_grad():
            terms, logits, found = run(list(tensors.values()), x, y)
        for name, gradient in zip(trained, found, strict=True):
            tensors[name].grad = gradient
        return terms, logits

    return gradients
