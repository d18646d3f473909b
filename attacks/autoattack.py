"""AutoAttack: four attacks in a row, the worst case per example."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from bench.attacks.apgd import apgd
from bench.attacks.core import balls, folding, frozen, search
from bench.attacks.fab import fab
from bench.attacks.square import square
from bench.core.decorators import attack


@attack(
    source="Croce and Hein 2020, 'Reliable Evaluation of Adversarial Robustness', section 5",
    chunk=200,  # a robust image costs thousands of passes
    adaptive=True,
    ranks=2,
)
def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    norm: str = "l2",
    seed: int = 0,
    version: str = "standard",
    steps: int = 100,
    targets: int = 9,
    queries: int = 5000,
    draws: int = 20,
    trace: dict[str, Any] | None = None,
) -> Tensor:
    """Attack with each stage what the stages before could not break, and return the worst point met.

    "standard" is APGD on cross-entropy, targeted APGD on the DLR loss, targeted FAB, Square. "rand", for
    randomised models, is APGD on cross-entropy and on the DLR loss with gradients averaged over `draws` passes.
    The number of targets follows the number of classes; with two or three classes, for which the targeted DLR
    loss is not defined, targeted APGD climbs the plain difference of logits, and "rand" with two leaves DLR out.

    Args:
        x: clean images (B, C, H, W) in [0, 1]; `y` (B,): their true labels.
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: of all stages; random draws belong to the example.
        version: "standard" or "rand".
        steps: of APGD and FAB; 100, targets 9 and queries 5,000 from the paper.
        targets: other classes tried by targeted APGD and FAB.
        queries: of Square.
        draws: passes per gradient in "rand"; 20 from the authors' code.
        trace: is given `broken_by`, a list of B strings: "" where robust, "clean" where misclassified without
            attack, else the stage; and `margin` (B,), the best margin loss.

    Raises:
        ValueError: unknown norm or version.
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    balls.check_norm("autoattack", norm)
    with frozen.frozen_eval(model):
        best, fast = search.Best("autoattack", model, x, y), folding.fold_constants(model, x, steps + queries)
        stages = _stages(version, best.logits.shape[1], steps, targets, queries, draws)
        by = ["clean" if wrong else "" for wrong in (best.margin > 0).tolist()]
        for name, stage in stages.items():
            rows = best.open()
            if not len(rows):
                break
            before = best.margin[rows]
            point = stage(fast, x[rows], y[rows], eps=eps, norm=norm, seed=seed)
            margin = best.see(rows, point, search.predict(model, point))
            for row, won in zip(rows.tolist(), ((margin > before) & (margin > 0)).tolist(), strict=True):
                by[row] = name if won else by[row]
    if trace is not None:
        trace.update(broken_by=by, margin=best.margin)
    return best.result()


def _stages(
    version: str, classes: int, steps: int, targets: int, queries: int, draws: int
) -> dict[str, Callable[..., Tensor]]:
    """Return the stages by the names that the authors give them.

    Raises:
        ValueError: unknown version.
    """
    if version == "standard":
        return {
            "apgd-ce": partial(apgd, loss="ce", steps=steps),
            "apgd-t": partial(apgd, loss="targeted", steps=steps, targets=targets),
            "fab-t": partial(fab, steps=steps, targets=targets),
            "square": partial(square, queries=queries),
        }
    if version == "rand":
        losses = ["ce", "dlr"] if classes > 2 else ["ce"]
        return {f"apgd-{loss}": partial(apgd, loss=loss, steps=steps, draws=draws) for loss in losses}
    raise ValueError(f"autoattack: expected version 'standard' or 'rand', got {version!r}. Choose one of the two.")
