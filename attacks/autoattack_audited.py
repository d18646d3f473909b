"""Two stages: a cheap strong attack on all images, the official AutoAttack on a random sample of what survives."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from bench.attacks.apgd import apgd
from bench.attacks.core import balls, folding, frozen, randomness, search
from bench.attacks.peers import pyautoattack
from bench.core.decorators import attack
from bench.core.records import Column

STREAM: Final = 7 << 20
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
    eps: float,
    norm: str = "l2",
    seed: int = 0,
    steps: int = 100,
    targets: int = 3,
    sample: float = 0.02,
    trace: dict[str, Any] | None = None,
) -> Tensor:
    """Run APGD on cross-entropy and on the targeted DLR loss, then the official AutoAttack on a sample.

    With m of n sampled survivors broken, the share of survivors that the full AutoAttack would break is at most
    the upper Clopper-Pearson bound of m out of n: 3/n at 95 % for m = 0. It is an estimate of AutoAttack with
    that bound, never AutoAttack: it bears its own name. The sample is drawn per image, not per batch; the
    official package's own random numbers belong to the batch that it is given.

    Args:
        x: clean images (B, C, H, W) in [0, 1]; `y` (B,): their true labels.
        eps: radius of the ball, ≥ 0.
        steps: of both cheap attacks; cross-entropy takes half of them.
        targets: classes tried; a survivor costs steps · (1 + 2·targets) passes, a tenth of AutoAttack's with 3.
        sample: share of the images drawn for the second stage if they survive; 0.02 adds a fifth to the cost.
        trace: is given `broken_by` ("" robust or not drawn, "clean", "apgd-ce", "apgd-t", "audit:<stage>"),
            `sampled` and `missed`, bool (B,).

    Raises:
        ValueError: unknown norm, or a sample outside [0, 1].
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    balls.check_norm("autoattack_audited", norm)
    if not 0 <= sample <= 1:
        raise ValueError(f"autoattack_audited: expected a sample between 0 and 1, got {sample}. Give a share.")
    with frozen.frozen_eval(model):
        best, fast = search.Best("autoattack_audited", model, x, y), folding.fold_constants(model, x, steps)
        by = ["clean" if wrong else "" for wrong in (best.margin > 0).tolist()]
        for name, settings in {
            "apgd-ce": {"loss": "ce", "steps": steps // 2},
            "apgd-t": {"loss": "targeted", "steps": steps, "targets": targets},
        }.items():
            rows = best.open()
            point = apgd(fast, x[rows], y[rows], eps=eps, norm=norm, seed=seed, **settings)  # type: ignore[arg-type]
            _note(best, by, rows, point, [name] * len(rows), model)

        drawn = randomness.uniform(randomness.example_keys(x, seed), STREAM, ()) < sample
        sampled = drawn & (best.margin <= 0)
        rows = sampled.nonzero()[:, 0]
        if len(rows):
            audit: dict[str, Any] = {}
            point = pyautoattack.autoattack(model, x[rows], y[rows], eps=eps, norm=norm, seed=seed, trace=audit)
            _note(best, by, rows, point, [f"audit:{stage}" for stage in audit["broken_by"]], model)
    if trace is not None:
        trace.update(broken_by=by, margin=best.margin, sampled=sampled, missed=sampled & (best.margin > 0))
    return best.result()


def _note(best: search.Best, by: list[str], rows: Tensor, point: Tensor, stages: list[str], model: nn.Module) -> None:
    """Show `best` a stage's points and write down which examples the stage broke."""
    before = best.margin[rows]
    margin = best.see(rows, point, search.predict(model, point))
    won = torch.logical_and(margin > before, margin > 0)
    for row, stage, is_won in zip(rows.tolist(), stages, won.tolist(), strict=True):
        by[row] = stage if is_won else by[row]
