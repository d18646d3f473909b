"""Two stages: a cheap strong attack on all images, the official AutoAttack on a random sample of what survives."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Final

import torch
from torch import Tensor, nn

from bench.attacks.apgd import apgd
from bench.attacks.core import balls, folding, randomness, search
from bench.attacks.core.randomness import Stream
from bench.attacks.core.trace import Trace
from bench.attacks.peers import pyautoattack
from bench.core.decorators import attack
from bench.core.ranges import Ge, Interval
from bench.core.records import Column
from bench.core.torch_state import frozen_eval

EXTRA: Final = {
    "sampled": Column(
        "Survived the cheap stage and was drawn for the full AutoAttack.", kind="flag", aggregate="sum", shown=False
    ),
    "missed": Column(
        "Survived the cheap stage and was broken by the full AutoAttack.", kind="flag", aggregate="sum", shown=False
    ),
}


@attack(source="Croce and Hein 2020 (both stages); the sampled audit is ours", extra=EXTRA, adaptive=True)
def autoattack_audited(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    steps: Annotated[int, Ge(1)] = 100,
    n_target_classes: Annotated[int, Ge(1)] = 3,
    sample: Annotated[float, Interval(ge=0, le=1)] = 0.02,
    trace: Trace | None = None,
) -> Tensor:
    """Run APGD on cross-entropy and on the targeted DLR loss, then the official AutoAttack on a sample.

    With m of n sampled survivors broken, the share of survivors that the full AutoAttack would break is at most
    the upper Clopper-Pearson bound of m out of n: 3/n at 95 % for m = 0. It is an estimate of AutoAttack with
    that bound, never AutoAttack: it bears its own name. The sample is drawn per image, not per batch; the
    official package's own random numbers belong to the batch that it is given.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels, (B,).
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: of both stages and of the sample.
        steps: of both cheap attacks; cross-entropy takes half of them.
        n_target_classes: classes tried; a survivor costs steps · (1 + 2·n) passes, a tenth of AutoAttack's with 3.
        sample: share of the images drawn for the second stage if they survive; 0.02 adds a fifth to the cost.
        trace: receives `broken_by` ("" robust or not drawn, "clean", "apgd-ce", "apgd-t", "audit:<stage>"),
            `margin` (B,), `sampled` and `missed`, bool (B,).

    Returns:
        The worst points met, (B, C, H, W).

    Raises:
        ValueError: unknown norm, or a sample outside [0, 1].
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    balls.check_norm("autoattack_audited", norm)
    if not 0 <= sample <= 1:
        raise ValueError(f"autoattack_audited: expected a sample between 0 and 1, got {sample}. Give a share.")
    cheap: dict[str, Callable[..., Tensor]] = {
        "apgd-ce": partial(apgd, loss="ce", steps=steps // 2),
        "apgd-t": partial(apgd, loss="targeted", steps=steps, n_target_classes=n_target_classes),
    }
    with frozen_eval(model):
        best, fast = search.Best("autoattack_audited", model, x, y), folding.fold_constants(model, x, steps)
        broken_by = ["clean" if wrong else "" for wrong in (best.margin > 0).tolist()]
        for name, stage in cheap.items():
            rows = best.active()
            x_adv = stage(fast, x[rows], y[rows], eps=eps, norm=norm, seed=seed)
            _update(best, broken_by, rows, x_adv, [name] * len(rows), model)

        drawn = randomness.uniform(randomness.example_keys(x, seed), Stream.AUDIT_SAMPLE, ()) < sample
        sampled = drawn & (best.margin <= 0)
        rows = sampled.nonzero()[:, 0]
        if len(rows):
            official: Trace = {}
            x_adv = pyautoattack.autoattack(model, x[rows], y[rows], eps=eps, norm=norm, seed=seed, trace=official)
            _update(best, broken_by, rows, x_adv, [f"audit:{stage}" for stage in official["broken_by"]], model)
    if trace is not None:
        trace.update(broken_by=broken_by, margin=best.margin, sampled=sampled, missed=sampled & (best.margin > 0))
    return best.finalize()


def _update(
    best: search.Best, broken_by: list[str], rows: Tensor, x_adv: Tensor, stages: list[str], model: nn.Module
) -> None:
    """Update `best` with a stage's points, and `broken_by` with the examples that the stage broke."""
    before = best.margin[rows]
    margin = best.update(rows, x_adv, search.predict(model, x_adv))
    won = torch.logical_and(margin > before, margin > 0)
    for row, stage, is_won in zip(rows.tolist(), stages, won.tolist(), strict=True):
        broken_by[row] = stage if is_won else broken_by[row]
