"""Auto-PGD: projected gradient ascent with momentum that halves its own step when it stops improving."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, folding, randomness, search
from bench.attacks.core.apgd_loop import ApgdState, apgd_loop
from bench.attacks.core.lockstep import MAX_POINTS, lockstep
from bench.attacks.core.losses import LOSSES
from bench.attacks.core.randomness import Stream
from bench.attacks.core.trace import ZERO_GRADIENT, Trace
from bench.core.decorators import attack
from bench.core.ranges import Ge, Interval
from bench.core.torch_state import frozen_eval

ApgdLoss = Literal["ce", "dlr", "targeted"]
STREAMS: Final = {
    "ce": Stream.APGD_CE_START,
    "dlr": Stream.APGD_DLR_START,
    "targeted": Stream.APGD_TARGETED_START,
}


@attack(
    source="Croce and Hein 2020, 'Reliable Evaluation of Adversarial Robustness', algorithm 1, eq. (6), (8)",
    version=2,
    extra={"zero_gradient": ZERO_GRADIENT},
)
def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    loss: ApgdLoss = "ce",
    steps: Annotated[int, Ge(1)] = 100,
    restarts: Annotated[int, Ge(1)] = 1,
    n_target_classes: Annotated[int, Ge(1)] = 9,
    rho: Annotated[float, Interval(gt=0, lt=1)] = 0.75,
    eot_iter: Annotated[int, Ge(1)] = 1,
    trace: Trace | None = None,
) -> Tensor:
    """Run Auto-PGD and return the point with the largest margin loss met, (B, C, H, W).

    Algorithm 1 of the paper: first step 2·eps from a random point of the ball's surface, momentum 0.75; at each
    checkpoint the step is halved, and the search goes back to its best point, if fewer than rho of the steps
    since the last one improved the loss, or if neither step nor best loss moved. An example stops when it is broken.
    What differs from the authors' code: the random start belongs to the example; the first checkpoint compares
    the first step with the start (theirs compares it with zero); all targets but the first run in lockstep.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels, (B,).
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: of the random starts.
        loss: "ce", "dlr" (K ≥ 3), or "targeted": the targeted DLR loss towards each of the next best classes.
        steps: gradient steps; 100, and rho 0.75, from the paper, section 4.
        restarts: runs per target; 1, as in AutoAttack's standard version.
        n_target_classes: target classes; 9, fewer where there are fewer other classes.
        rho: share of steps that must improve the loss.
        eot_iter: passes per gradient, for randomised models; 20 in AutoAttack's "rand".
        trace: receives `margin` (B,), the best margin loss; `zero_gradient` (B,), steps that had no gradient.

    Returns:
        The points with the largest margin loss met, (B, C, H, W).

    Raises:
        ValueError: unknown norm or loss, or "dlr" with two classes.
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    balls.check_norm("apgd", norm)
    if loss not in LOSSES:
        raise ValueError(f"apgd: expected a loss among {sorted(LOSSES)}, got {loss!r}. Choose one of them.")
    keys = randomness.example_keys(x, seed)
    zero_gradient = torch.zeros(len(x), dtype=torch.long, device=x.device)
    with frozen_eval(model):
        model = folding.fold_constants(model, x, steps)
        best = search.Best("apgd", model, x, y)
        classes = best.logits.shape[1]
        if loss == "dlr" and classes < 3:
            raise ValueError(f"apgd: expected at least 3 classes for the DLR loss, got {classes}. Use loss='ce'.")
        ranks = [[0]] if loss != "targeted" else lockstep(min(n_target_classes, classes - 1))
        targets = best.logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
        for restart in range(restarts):
            for group in ranks:
                for rows in best.batches(MAX_POINTS // len(group)):
                    streams = [STREAMS[loss] + restart * classes + rank for rank in group]
                    starts = [balls.sphere_perturbation(x[rows], keys[rows], s, eps, norm) for s in streams]
                    delta = torch.stack(starts, 1)
                    state = ApgdState.start(x, y, rows, targets[:, group], delta=delta, eps=eps, norm=norm)
                    apgd_loop(
                        model,
                        state,
                        best,
                        loss=LOSSES[loss],
                        steps=steps,
                        eps=eps,
                        norm=norm,
                        zero_gradient=zero_gradient,
                        rho=rho,
                        eot_iter=eot_iter,
                    )
    if trace is not None:
        trace.update(margin=best.margin, zero_gradient=zero_gradient)
    return best.finalize()
