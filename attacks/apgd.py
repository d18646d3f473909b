"""Auto-PGD: projected gradient ascent with momentum that halves its own step when it stops gaining."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, folding, frozen, randomness, search
from bench.attacks.core.apgd_loop import ApgdState, apgd_loop
from bench.attacks.core.lockstep import MAX_POINTS, lockstep
from bench.attacks.core.losses import LOSSES
from bench.attacks.core.trace_columns import ZERO_GRADIENT
from bench.core.decorators import attack

STREAMS: Final = {"ce": 1 << 20, "dlr": 2 << 20, "targeted": 3 << 20}  # of random starts, apart from PGD's


@attack(
    source="Croce and Hein 2020, 'Reliable Evaluation of Adversarial Robustness', algorithm 1, eq. (6), (8)",
    extra={"zero_gradient": ZERO_GRADIENT},
)
def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "l2",
    seed: int = 0,
    loss: str = "ce",
    steps: int = 100,
    restarts: int = 1,
    targets: int = 9,
    rho: float = 0.75,
    draws: int = 1,
    trace: dict[str, Any] | None = None,
) -> Tensor:
    """Run Auto-PGD and return the point with the largest margin loss met.

    Algorithm 1 of the paper: first step 2·eps from a random point of the ball's surface, momentum 0.75; at each
    checkpoint the step is halved, and the search goes back to its best point, if fewer than rho of the steps
    since the last one gained, or if neither step nor best loss moved. An example stops when it is broken.
    What differs from the authors' code: the random start belongs to the example; the first checkpoint compares
    the first step with the start (theirs compares it with zero); all targets but the first run in lockstep.

    Args:
        x: clean images (B, C, H, W) in [0, 1]; `y` (B,): their true labels.
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: of the random starts.
        loss: "ce", "dlr" (K ≥ 3), or "targeted": the targeted DLR loss towards each of the next best classes.
        steps: 100; with rho 0.75 from the paper, section 4.
        restarts: 1, as in AutoAttack's standard version.
        targets: 9; fewer where there are fewer other classes.
        rho: share of steps that must gain.
        draws: passes per gradient, for randomised models; 20 in AutoAttack's "rand".
        trace: is given `margin` (B,), the best margin loss; `zero_gradient` (B,), steps that had no gradient.

    Raises:
        ValueError: unknown norm or loss, or "dlr" with two classes.
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    balls.check_norm("apgd", norm)
    if loss not in LOSSES:
        raise ValueError(f"apgd: expected a loss among {sorted(LOSSES)}, got {loss!r}. Choose one of them.")
    keys = randomness.example_keys(x, seed)
    zero = torch.zeros(len(x), dtype=torch.long, device=x.device)
    with frozen.frozen_eval(model):
        model = folding.fold_constants(model, x, steps)
        best = search.Best("apgd", model, x, y)
        classes = best.logits.shape[1]
        if loss == "dlr" and classes < 3:
            raise ValueError(f"apgd: expected at least 3 classes for the DLR loss, got {classes}. Use loss='ce'.")
        ranks = [[0]] if loss != "targeted" else lockstep(min(targets, classes - 1))
        goals = best.logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
        for restart in range(restarts):
            for group in ranks:
                for rows in best.parts(MAX_POINTS // len(group)):
                    starts = [
                        balls.sphere_perturbation(
                            x[rows], keys[rows], STREAMS[loss] + restart * classes + rank, eps, norm
                        )
                        for rank in group
                    ]
                    state = ApgdState.start(x, y, rows, goals[:, group], torch.stack(starts, 1), eps, norm)
                    apgd_loop(model, state, best, zero, LOSSES[loss], steps, eps, norm, rho, draws)
    if trace is not None:
        trace.update(margin=best.margin, zero_gradient=zero)
    return best.result()
