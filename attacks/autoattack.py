"""AutoAttack: four attacks in a row, the worst case per example."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

from torch import Tensor, nn

from bench.attacks.apgd import ApgdLoss, apgd
from bench.attacks.core import balls, folding, search
from bench.attacks.core.trace import Trace
from bench.attacks.fab import fab
from bench.attacks.square import square
from bench.core.decorators import attack
from bench.core.ranges import Ge
from bench.core.ticks import tick
from bench.core.torch_state import frozen_eval


@attack(
    source="Croce and Hein 2020, 'Reliable Evaluation of Adversarial Robustness', section 5",
    version=2,
    chunk=200,  # a robust image costs thousands of passes
    adaptive=True,
    ranks=2,
    randomised={"version": "rand", "eot_iter": 1},
)
def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    version: Literal["standard", "rand"] = "standard",
    steps: Annotated[int, Ge(1)] = 100,
    n_target_classes: Annotated[int, Ge(1)] = 9,
    n_queries: Annotated[int, Ge(1)] = 5000,
    eot_iter: Annotated[int, Ge(1)] = 20,
    trace: Trace | None = None,
) -> Tensor:
    """Attack with each stage what the stages before could not break, and return the worst point met, (B, C, H, W).

    "standard" is APGD on cross-entropy, targeted APGD on the DLR loss, targeted FAB, Square. "rand", for
    randomised models, is APGD on cross-entropy and on the DLR loss with gradients averaged over `eot_iter` passes.
    The number of targets follows the number of classes; with two or three classes, for which the targeted DLR
    loss is not defined, targeted APGD climbs the plain difference of logits, and "rand" with two leaves DLR out.
    There is one start per target; docs/measured.md has what more starts would find.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels, (B,).
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: of all stages; random draws belong to the example.
        version: "standard" or "rand".
        steps: of APGD and FAB; 100, 9 target classes and 5,000 queries from the paper.
        n_target_classes: other classes tried by targeted APGD and FAB.
        n_queries: of Square.
        eot_iter: passes per gradient in "rand"; 20 from the authors' code.
        trace: receives `broken_by`, a list of B strings: "" where robust, "clean" where misclassified without
            attack, else the stage; and `margin` (B,), the best margin loss.

    Returns:
        The worst points that any stage met, (B, C, H, W).

    Raises:
        ValueError: unknown norm or version.
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    balls.check_norm("autoattack", norm)
    with frozen_eval(model):
        best, fast = search.Best("autoattack", model, x, y), folding.fold_constants(model, x, steps + n_queries)
        by_version = _stages(best.logits.shape[1], steps, n_target_classes, n_queries, eot_iter)
        if version not in by_version:
            raise ValueError(
                f"autoattack: expected version 'standard' or 'rand', got {version!r}. Choose one of the two."
            )
        broken_by = ["clean" if wrong else "" for wrong in (best.margin > 0).tolist()]
        for name, stage in by_version[version].items():
            rows = best.active()
            if not len(rows):
                break
            tick(name, len(rows), len(x))
            before = best.margin[rows]
            x_adv = stage(fast, x[rows], y[rows], eps=eps, norm=norm, seed=seed)
            margin = best.update(rows, x_adv, search.predict(model, x_adv))
            for row, won in zip(rows.tolist(), ((margin > before) & (margin > 0)).tolist(), strict=True):
                broken_by[row] = name if won else broken_by[row]
    if trace is not None:
        trace.update(broken_by=broken_by, margin=best.margin)
    return best.finalize()


def _stages(
    classes: int, steps: int, n_target_classes: int, n_queries: int, eot_iter: int
) -> dict[str, dict[str, Callable[..., Tensor]]]:
    """Return the stages of each version by the names that the authors give them."""
    losses: tuple[ApgdLoss, ...] = ("ce", "dlr") if classes > 2 else ("ce",)
    return {
        "standard": {
            "apgd-ce": partial(apgd, loss="ce", steps=steps),
            "apgd-t": partial(apgd, loss="targeted", steps=steps, n_target_classes=n_target_classes),
            "fab-t": partial(fab, steps=steps, n_target_classes=n_target_classes),
            "square": partial(square, n_queries=n_queries),
        },
        "rand": {f"apgd-{loss}": partial(apgd, loss=loss, steps=steps, eot_iter=eot_iter) for loss in losses},
    }
