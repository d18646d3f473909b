"""The attack that a defense's author declares against the own defense, joined to a standard one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, losses, randomness, search
from bench.attacks.core.apgd_loop import ApgdState, apgd_loop
from bench.attacks.core.randomness import Stream
from bench.attacks.core.trace import Trace
from bench.core.records import Adaptive
from bench.core.torch_state import frozen_eval

STEPS: Final = 100


def adaptive(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, seed: int, declaration: Adaptive
) -> Tensor:
    """Run Auto-PGD with the declared gradients and loss, judged by the model itself; return the worst points.

    Gradients come from `surrogate(model)` (backward pass differentiable approximation, Athalye et al. 2018),
    averaged over `eot` passes; the loss is the declared one, else the margin.

    Args:
        model: the defended network, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels, (B,).
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: of the random start.
        declaration: what the author declares.

    Returns:
        The points with the largest margin loss met, (B, C, H, W).

    Raises:
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    guide = declaration.surrogate(model) if declaration.surrogate else model
    declared = declaration.loss
    zero_gradient = torch.zeros(len(x), dtype=torch.long, device=x.device)
    keys = randomness.example_keys(x, seed)

    def loss(logits: Tensor, label: Tensor, target: Tensor) -> Tensor:
        return declared(logits, label) if declared else losses.margin_loss(logits, label)

    with frozen_eval(model), frozen_eval(guide), _watched_as(model, guide):
        best = search.Best("adaptive attack", model, x, y)
        for start in range(2):  # from the image itself and from a random point: surrogates are often bent near x
            for rows in best.batches(len(x)):
                delta = torch.zeros_like(x[rows])
                if start:
                    delta = balls.sphere_perturbation(x[rows], keys[rows], Stream.ADAPTIVE_START, eps, norm)
                state = ApgdState.start(x, y, rows, y[:, None], delta=delta[:, None], eps=eps, norm=norm)
                apgd_loop(
                    guide,
                    state,
                    best,
                    loss=loss,
                    steps=STEPS,
                    eps=eps,
                    norm=norm,
                    zero_gradient=zero_gradient,
                    eot_iter=declaration.eot,
                    attacked=model,
                )
    return best.finalize()


@contextlib.contextmanager
def _watched_as(model: nn.Module, guide: nn.Module) -> Iterator[None]:
    """Let the model's forward hooks see the passes of a surrogate inside the block, but those that call the model.

    Whoever counts passes of the model counts what attacking it costs.
    """
    if guide is model:
        yield
        return
    inner: list[bool] = []

    def forget(*_: object) -> None:
        inner.clear()

    def see(module: nn.Module, inputs: object, output: Tensor) -> None:
        if not inner:
            for hook in list(model._forward_hooks.values()):
                hook(model, inputs, output)

    handles = [
        model.register_forward_hook(lambda *_: inner.append(True)),
        guide.register_forward_pre_hook(forget),
        guide.register_forward_hook(see),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def worst_case_with(attack: Callable[..., Tensor], declaration: Adaptive) -> Callable[..., Tensor]:
    """Return an attack that runs the declared one on what a standard attack leaves, and gives the worst case.

    Args:
        attack: a standard attack that names in `trace["broken_by"]` the stage that broke an example.
        declaration: what the defense's author declares.
    """

    def both(
        model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, seed: int, trace: Trace, **rest: object
    ) -> Tensor:
        x_adv = attack(model, x, y, eps=eps, norm=norm, seed=seed, trace=trace, **rest)
        left = (search.predict(model, x_adv).argmax(1) == y).nonzero()[:, 0]
        if len(left):
            x_more = adaptive(model, x[left], y[left], eps=eps, norm=norm, seed=seed, declaration=declaration)
            wrong = search.predict(model, x_more).argmax(1) != y[left]
            x_adv = x_adv.clone()
            x_adv[left[wrong]] = x_more[wrong]
            stages = trace.setdefault("broken_by", [""] * len(x))
            assert isinstance(stages, list)  # "broken_by" holds names
            for row in left[wrong].tolist():
                stages[row] = "adaptive"
        return x_adv

    return both
