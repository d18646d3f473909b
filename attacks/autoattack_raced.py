"""AutoAttack by racing: short runs of its stages on all images, the full procedure on who is near and on a sample."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Final

from torch import Tensor, nn

from bench.attacks.apgd import apgd
from bench.attacks.autoattack import autoattack
from bench.attacks.core import balls, folding, randomness
from bench.attacks.core.race import Race
from bench.attacks.core.randomness import Stream
from bench.attacks.core.trace import Trace
from bench.attacks.fab import fab
from bench.attacks.square import square
from bench.core.decorators import attack
from bench.core.ranges import Ge, Interval
from bench.core.records import Column
from bench.core.ticks import tick
from bench.core.torch_state import frozen_eval

# The short runs, as parts of the full ones: 50 of 100 steps of APGD, 25 of targeted APGD, 20 of FAB, 500 of 5,000
# queries of Square. They and `near` were chosen on the networks of docs/measured.md, not confirmed on others.
CE_PART: Final = 2
TARGETED_PART: Final = 4
FAB_PART: Final = 5
SQUARE_PART: Final = 10
FAB_CLASSES: Final = 3

_flag: Final = partial(Column, kind="flag", aggregate="sum", shown=False)
EXTRA: Final = {
    "full": _flag("Survived the race and was attacked by the full procedure.", role="race_full"),
    "sampled": _flag(
        "The race had given it up, and it was drawn for the full procedure all the same.", role="race_sampled"
    ),
    "outrun": _flag(
        "The race had given it up, and the full procedure, for which it was drawn, broke it.", role="race_outrun"
    ),
}


@attack(
    source="Croce and Hein 2020 (the stages); the race and its sampled bound are ours",
    version=2,
    extra=EXTRA,
    chunk=500,  # the sample of a chunk calibrates the race in it
    adaptive=True,
)
def autoattack_raced(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    steps: Annotated[int, Ge(1)] = 100,
    n_target_classes: Annotated[int, Ge(1)] = 9,
    n_queries: Annotated[int, Ge(1)] = 5000,
    near: Annotated[float, Interval(ge=0, le=1)] = 0.02,
    sample: Annotated[float, Interval(ge=0, le=1)] = 0.25,
    trace: Trace | None = None,
) -> Tensor:
    """Run short forms of AutoAttack's stages on all images, then AutoAttack itself on a part of what survives.

    The race: Auto-PGD on cross-entropy with half of its steps, targeted Auto-PGD with a quarter, FAB with a fifth on
    the three nearest classes, Square with a tenth of its queries: an eighth of the passes. With m₀ the margin loss of
    the clean image and m the largest one met, −m/(m − m₀) is what is still lacking, as a share of what the race has
    gained. The full procedure, with the seeds of `autoattack`, then attacks the survivors

    - that lack at most the share `near`, or that FAB broke in a ball of radius (1 + near)·eps;
    - on which Square came farther than the gradients did: those may be masked;
    - that are drawn at random with probability `sample`, which is what the race is judged by.

    If the full procedure breaks images that were drawn and that the race had given up, the race was wrong on this
    network: `near` becomes twice the largest share that one of them lacked, and what then counts as near is attacked.
    With m of n such images broken, at most the upper Clopper-Pearson bound of m out of n of the images that count as
    robust without the full procedure would fall to it. Verdicts are those of AutoAttack up to that bound, so it
    bears its own name. All but the calibration belongs to the example, not to the batch; the calibration only adds.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels, (B,).
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: of all stages and of the sample.
        steps: of the full APGD and FAB.
        n_target_classes: other classes tried.
        n_queries: of the full Square.
        near: share of the gain that a survivor may lack to be attacked by the full procedure.
        sample: share of the images that are drawn. About 100 drawn survivors bound the miss by 3 % of the others.
        trace: receives `broken_by` ("" robust, "clean", the stage's name, after "race:" or "full:"), `margin` (B,),
            `full`, `sampled` and `outrun`, bool (B,).

    Returns:
        The worst points met, (B, C, H, W).

    Raises:
        ValueError: unknown norm, or a share outside [0, 1].
        FloatingPointError: NaN or infinity in logits or gradients.
    """
    balls.check_norm("autoattack_raced", norm)
    short: dict[str, Callable[..., Tensor]] = {
        "apgd-ce": partial(apgd, loss="ce", steps=-(-steps // CE_PART)),
        "apgd-t": partial(apgd, loss="targeted", steps=-(-steps // TARGETED_PART), n_target_classes=n_target_classes),
        "fab-t": partial(fab, steps=-(-steps // FAB_PART), n_target_classes=min(FAB_CLASSES, n_target_classes)),
        "square": partial(square, n_queries=-(-n_queries // SQUARE_PART)),
    }
    whole = partial(
        autoattack,
        model,
        steps=steps,
        n_target_classes=n_target_classes,
        n_queries=n_queries,
        eps=eps,
        norm=norm,
        seed=seed,
    )
    with frozen_eval(model):
        race = Race("autoattack_raced", model, x, y)
        fast = folding.fold_constants(model, x, steps + n_queries)
        for name, stage in short.items():
            rows = race.best.active()
            tick(f"race: {name}", len(rows), len(x))
            race.run(rows, partial(stage, fast, eps=eps, norm=norm, seed=seed), f"race:{name}")
        hopeful = race.hopeful(near, eps)
        drawn = randomness.uniform(randomness.example_keys(x, seed), Stream.AUDIT_SAMPLE, ()) < sample
        sampled = drawn & ~hopeful & ~race.best.stopped
        lacked, full = race.lacking, hopeful | sampled
        race.run(full.nonzero()[:, 0], whole, "full:")
        outrun = sampled & (race.best.margin > 0)
        if outrun.any():
            more = ~full & ~race.best.stopped & (lacked <= 2 * lacked[outrun].max())
            race.run(more.nonzero()[:, 0], whole, "full:")
            full |= more
    if trace is not None:
        trace.update(broken_by=race.broken_by, margin=race.best.margin, full=full, sampled=sampled, outrun=outrun)
    return race.best.finalize()
