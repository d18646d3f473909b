"""Auto-PGD: projected gradient ascent with momentum that halves its own step when it stops gaining."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from bench.attacks import _folding, _geometry, _model, randomness
from bench.attacks._climb import Climb, Loss, climb

EXTRA: Final = {"zero_gradient": ("count", "Steps that had no gradient to follow.")}
SOURCE: Final = "Croce and Hein 2020, 'Reliable Evaluation of Adversarial Robustness', algorithm 1, eq. (6), (8)"
VERSION: Final = 1
ROWS: Final = 512  # points in one pass when several targets run in lockstep: bounds the memory
STREAMS: Final = {"ce": 1 << 20, "dlr": 2 << 20, "targeted": 3 << 20}  # of random starts, apart from PGD's


def ce_loss(logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
    """Return logsumexp_{k≠y} z_k − z_y, (B,): cross-entropy's direction and order, without its underflow."""
    return _model.log_odds_loss(logits, y)


def dlr_loss(logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
    """Return (max_{k≠y} z_k − z_y) / (z_π1 − z_π3), (B,): eq. (6); π sorts the logits downwards, K ≥ 3."""
    top = logits.topk(3, dim=1).values
    return _model.margin_loss(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def targeted_loss(logits: Tensor, y: Tensor, goal: Tensor) -> Tensor:
    """Return (z_t − z_y) / (z_π1 − (z_π3 + z_π4)/2), (B,): eq. (8). With K ≤ 3 there is no π4: z_t − z_y then."""
    gap = (logits.gather(1, goal[:, None]) - logits.gather(1, y[:, None]))[:, 0]
    if logits.shape[1] < 4:
        return gap
    top = logits.topk(4, dim=1).values
    return gap / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + 1e-12)


LOSSES: Final[dict[str, Loss]] = {"ce": ce_loss, "dlr": dlr_loss, "targeted": targeted_loss}


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
    _geometry.check_norm("apgd", norm)
    if loss not in LOSSES:
        raise ValueError(f"apgd: expected a loss among {sorted(LOSSES)}, got {loss!r}. Choose one of them.")
    keys = randomness.example_keys(x, seed)
    zero = torch.zeros(len(x), dtype=torch.long, device=x.device)
    with _model.quiet(model):
        model = _folding.folded(model, x, steps)
        best = _model.Best("apgd", model, x, y)
        classes = best.logits.shape[1]
        if loss == "dlr" and classes < 3:
            raise ValueError(f"apgd: expected at least 3 classes for the DLR loss, got {classes}. Use loss='ce'.")
        ranks = [[0]] if loss != "targeted" else lockstep(min(targets, classes - 1))
        goals = best.logits.scatter(1, y[:, None], -torch.inf).argsort(1, descending=True)
        for restart in range(restarts):
            for group in ranks:
                for rows in best.parts(ROWS // len(group)):
                    starts = [
                        _geometry.sphere_perturbation(
                            x[rows], keys[rows], STREAMS[loss] + restart * classes + rank, eps, norm
                        )
                        for rank in group
                    ]
                    state = Climb.start(x, y, rows, goals[:, group], torch.stack(starts, 1), eps, norm)
                    climb(model, state, best, zero, LOSSES[loss], steps, eps, norm, rho, draws)
    if trace is not None:
        trace.update(margin=best.margin, zero_gradient=zero)
    return best.result()


def lockstep(targets: int) -> list[list[int]]:
    """Return the groups of targets, by rank, that run at the same time: the nearest class first, then the rest.

    The nearest class breaks most examples, so its run spares the others theirs; the rest share their passes.
    The groups are fixed, so that which target breaks an example does not depend on the batch.
    """
    return [group for group in ([0], list(range(1, targets))) if group]
