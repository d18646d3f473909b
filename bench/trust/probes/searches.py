"""Attacks with other settings than the row's: what one step, more steps, other radii, luck or decisions alone break."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, search
from bench.attacks.core.draws import RandomisedModel
from bench.attacks.core.losses import margin_loss
from bench.attacks.core.trace import Trace
from bench.attacks.fgsm import fgsm
from bench.attacks.hopskipjump import hopskipjump
from bench.attacks.noise import noise
from bench.attacks.pgd import LOSSES, pgd
from bench.measuring.judge import JudgedBatch, judge
from bench.measuring.witness import Witness
from bench.trust.probes.answers import relative_difference
from bench.trust.probes.draws import MORE
from bench.trust.probes.grid import on_grid

STEPS: Final = 40  # of PGD, as everywhere
DRAWN_STEPS: Final = 20  # where each gradient is a mean over draws
FACTORS: Final = (0.25, 0.5, 1.0, 2.0, 4.0)  # radii at which the margin is attacked anew, over eps
LAST: Final = 10  # steps at the end of a run over which its loss should be flat
DRAWS: Final = 100
QUERIES: Final = 500
MORE_SEEDS: Final = 1  # added to the seed where another start than the row's is wanted


@dataclass(frozen=True)
class Subject:
    """The images of one batch that are attacked, and in which ball.

    Attributes:
        model: network in eval mode, images to logits (B, K).
        x: images (B, C, H, W) in [0, 1].
        y: labels (B,).
        eps: radius of the ball.
        norm: "l2" or "linf".
        seed: of the random draws, which belong to the image.
        rank: place of each image in a random order of all, int64 (B,); None: everything is run on every image.
        allotted: search to the number of images that it is run on, the first ones of that order; see `allot`.
        witness: answers for the model without any question before; None: there is none.
    """

    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    norm: str
    seed: int
    rank: Tensor | None = None
    allotted: Mapping[str, int] = field(default_factory=dict)
    witness: Witness | None = None

    @property
    def steps(self) -> int:
        """Of PGD."""
        return DRAWN_STEPS if isinstance(self.model, RandomisedModel) else STEPS

    def of(self, rows: slice | Tensor) -> Subject:
        """Return the subject of some of the images."""
        rank = None if self.rank is None else self.rank[rows]
        return replace(self, x=self.x[rows], y=self.y[rows], rank=rank)

    def runs(self, search: str) -> Tensor:
        """Return the images that a search is run on, bool (B,)."""
        if self.rank is None:
            return torch.ones(len(self.x), dtype=torch.bool, device=self.x.device)
        return self.rank < self.allotted[search]

    def elsewhere(self, points: Tensor) -> Tensor:
        """Return how far the model's logits at points (n, C, H, W) are from its witness's, (n,); NaN without one."""
        there = None if self.witness is None or not len(points) else self.witness.logits(points)
        if there is None:
            return torch.full((len(points),), torch.nan, device=points.device)
        return relative_difference(search.predict(self.model, points), there)

    def broken(
        self, attack: Callable[..., Tensor], rows: Tensor, eps: float | None = None, **arguments: object
    ) -> Tensor:
        """Return which images an attack breaks, bool (B,); False where it was not run.

        Args:
            attack: `attack(model, x, y, *, eps, norm, seed, …) -> x_adv`.
            rows: images that it is run on, bool (B,).
            eps: radius; None: the subject's.
            arguments: further ones of the attack.
        """
        found = torch.zeros_like(rows)
        if rows.any():
            found[rows] = self.run(attack, rows, eps, **arguments).broken
        return found

    def run(
        self, attack: Callable[..., Tensor], rows: Tensor, eps: float | None = None, **arguments: object
    ) -> JudgedBatch:
        """Return the judge's verdict on an attack's points on some of the images, (n, …); arguments as for `broken`."""
        radius = self.eps if eps is None else eps
        x, y = self.x[rows], self.y[rows]
        arguments = {"seed": self.seed, **arguments}
        x_adv = attack(self.model, x, y, eps=radius, norm=self.norm, **arguments)
        return judged(self.model, x, y, x_adv, eps=radius, norm=self.norm)


def judged(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, *, eps: float, norm: str) -> JudgedBatch:
    """Return the judge's verdict; what votes broke counts only where other draws confirm it clearly.

    At a tie every further search is another ticket in a lottery, and would seem to find what the row's attack missed.

    Args:
        model: network in eval mode.
        x: images (B, C, H, W) in [0, 1].
        y: labels (B,).
        x_adv: the points proposed.
        eps: radius of the ball.
        norm: "l2" or "linf".
    """
    found = judge(model, x, y, x_adv, eps=eps, norm=norm)
    if isinstance(model, RandomisedModel) and found.broken.any():
        rows = found.broken.nonzero()[:, 0]
        found.broken[rows] &= model.clearly_wrong(found.x_adv[rows], y[rows])
    return found


def factor_name(factor: float) -> str:
    """Return the name of the column with the verdicts at a multiple of the radius."""
    return f"e1_robust_{factor:g}"


def searches(subject: Subject, correct: Tensor, known: Tensor | None) -> dict[str, Tensor]:
    """Attack the images in other ways than the row did, as far as the passes allotted go.

    Args:
        subject: images and ball.
        correct: images that the model classifies correctly, bool (B,).
        known: which images the row's attack could not break, bool (B,); None: no attack was run, and PGD on both
            losses takes its place. Images that it broke are not searched again for what only survivors can show.

    Returns:
        (B,) each, float32, NaN where not searched, 0 where only survivors are and this is none: `survivor`,
        `g4_ce_robust`, `g4_margin_robust`, `e1_robust_…`, `e2_robust`, `a1_one_step`, `b1_random`, `b4_decision`,
        `b5_on_grid`, and those of `longer_search` or `more_draws`.

    Raises:
        FloatingPointError: logits or gradients are not finite.
        BenchError: the judge met such.
    """
    losses = subject.runs("losses")
    attacked = (correct if known is None else correct & ~known) & losses
    ce = subject.broken(pgd, attacked, losses=["ce"], steps=subject.steps, seed=subject.seed + MORE_SEEDS)
    margin = subject.broken(pgd, attacked, losses=["margin"], steps=subject.steps, seed=subject.seed + MORE_SEEDS)
    survivor = correct & ~ce & ~margin if known is None else correct & known
    again = subject.runs("draws" if isinstance(subject.model, RandomisedModel) else "longer")
    if isinstance(subject.model, RandomisedModel):
        numbers = more_draws(subject, subject.model, survivor & again)
        ce_robust, margin_robust = correct & ~ce, correct & ~margin
    else:
        numbers = longer_search(subject, survivor & again)
        ce_robust = correct & ~ce & ~(numbers["a2_broken_by_ce"] == 1)
        margin_robust = correct & ~margin & ~(numbers["a2_broken_by_margin"] == 1)
    numbers |= {n: where(again, v.nan_to_num(0)) for n, v in numbers.items() if n.startswith(("a2_broken", "r2_"))}
    grid = subject.runs("grid") & (not isinstance(subject.model, RandomisedModel))
    one_step, random, decision = subject.runs("one_step"), subject.runs("random"), subject.runs("decision")
    numbers |= {
        "survivor": survivor,
        "g4_ce_robust": where(losses, ce_robust),
        "g4_margin_robust": where(losses, margin_robust),
        "a1_one_step": where(one_step, subject.broken(fgsm, correct & one_step)),
        "b1_random": where(random, subject.broken(noise, survivor & random, draws=DRAWS)),
        "b5_on_grid": where(grid, _on_grid(subject, survivor & grid)),
        "b4_decision": where(decision, subject.broken(hopskipjump, survivor & decision, n_queries=QUERIES)),
    }
    numbers |= radii(subject, correct, survivor, numbers["g4_margin_robust"])
    return {k: v.to(torch.float32) for k, v in numbers.items()}


def _on_grid(subject: Subject, rows: Tensor) -> Tensor:
    """Return which of some images have a point on the grid of stored pixel values that breaks them, bool (B,)."""
    found = torch.zeros_like(rows)
    if rows.any():
        x, y = subject.x[rows], subject.y[rows]
        for points in on_grid(subject.model, x, y, eps=subject.eps, norm=subject.norm, seed=subject.seed):
            found[rows] |= judged(subject.model, x, y, points, eps=subject.eps, norm=subject.norm).broken
    return found


def where(rows: Tensor, values: Tensor) -> Tensor:
    """Return values (B,) as float32, NaN outside the rows, bool (B,)."""
    return torch.where(rows, values.to(torch.float32), torch.nan)


def radii(subject: Subject, correct: Tensor, survivor: Tensor, at_eps: Tensor) -> dict[str, Tensor]:
    """Attack the margin at each multiple of the radius anew, and without any ball from the image itself.

    An image that survives everything at eps counts as robust below it: the smaller balls lie within.

    Args:
        subject: images and ball.
        correct: images classified correctly, bool (B,).
        survivor: images that nothing broke at eps, bool (B,).
        at_eps: verdicts at eps itself, (B,).

    Returns:
        `e1_robust_…` for each factor and `e2_robust`, (B,); NaN where not searched.
    """
    whole = 1.0 if subject.norm == "linf" else math.sqrt(math.prod(subject.x.shape[1:]))
    found: dict[str, Tensor] = {}
    for factor in FACTORS:
        if factor == 1:
            found[factor_name(factor)] = at_eps
            continue
        run = subject.runs("larger" if factor > 1 else "smaller")
        rows = correct & run & ~survivor if factor < 1 else correct & run
        broken = subject.broken(pgd, rows, min(factor * subject.eps, whole), losses=["margin"], steps=subject.steps)
        found[factor_name(factor)] = where(run, correct & ~broken)
    run = subject.runs("box")
    alone = subject.broken(pgd, correct & run, whole, losses=["margin"], steps=subject.steps, random_start=False)
    return found | {"e2_robust": where(run, correct & ~alone)}


def longer_search(subject: Subject, survivor: Tensor) -> dict[str, Tensor]:
    """Attack the survivors with twice the steps and a restart per loss, and look at how the runs end.

    Args:
        subject: images and ball.
        survivor: images that nothing broke and that are searched, bool (B,).

    Returns:
        (B,) each, NaN where not searched: `a2_broken_by_ce` and `a2_broken_by_margin`; `a2_late_rise`, the part of
        the margin's rise along a run that came in its last steps, the median over runs; `g6_stationarity`, how much
        further the margin could rise in ball and box at the end of the last run for a function as linear as there,
        max ⟨x' − x_end, g⟩ / (eps‖g‖); `a3_silent`, whether a run met a misclassified point that the judge did not get;
        `v5_elsewhere_difference`, how far the answer there is from that of a model with no question before.
    """
    names = [
        *("a2_broken_by_ce", "a2_broken_by_margin", "a2_late_rise"),
        *("g6_stationarity", "a3_silent", "v5_elsewhere_difference"),
    ]
    found = {name: torch.full((len(survivor),), torch.nan, device=subject.x.device) for name in names}
    if not survivor.any():
        return found
    silent = torch.zeros(int(survivor.sum()), dtype=torch.bool, device=subject.x.device)
    seed = subject.seed + 1 + MORE_SEEDS
    for loss in LOSSES:
        trace: Trace = {}
        judged = subject.run(pgd, survivor, trace=trace, losses=[loss], steps=2 * STEPS, restarts=2, seed=seed)
        found[f"a2_broken_by_{loss}"][survivor] = judged.broken.float()
        best = _tensor(trace, "margin")
        silent |= (best > 0) & ~judged.broken & ~_on_the_verge(subject, survivor, best)
    found["a2_late_rise"][survivor] = late_rise(_tensor(trace, "path"))
    found["g6_stationarity"][survivor] = stationarity(subject, survivor, _tensor(trace, "last"))
    found["a3_silent"][survivor] = silent.float()
    found["v5_elsewhere_difference"][survivor] = subject.elsewhere(_tensor(trace, "last"))
    return found


def more_draws(subject: Subject, model: RandomisedModel, survivor: Tensor) -> dict[str, Tensor]:
    """Attack the survivors of a randomised model with more draws per gradient, and with draws that are held.

    Args:
        subject: images and ball.
        model: its model.
        survivor: images that nothing broke and that are searched, bool (B,).

    Returns:
        (B,) each, NaN where not searched: `r2_more_draws` and `r2_held_draws`, whether PGD on the margin then finds a
        point that the votes call wrong.
    """
    finer = RandomisedModel(model.network, model.votes, MORE * model.draws, model.seed).eval()
    found = {}
    for name, guide in (("r2_more_draws", finer), ("r2_held_draws", model.held(model.draws))):
        broken = torch.zeros_like(survivor)
        if survivor.any():
            x, y = subject.x[survivor], subject.y[survivor]
            eps, norm, seed = subject.eps, subject.norm, subject.seed + 1 + MORE_SEEDS
            x_adv = pgd(guide, x, y, eps=eps, norm=norm, losses=["margin"], steps=DRAWN_STEPS, seed=seed)
            broken[survivor] = judged(model, x, y, x_adv, eps=eps, norm=norm).broken
        found[name] = where(survivor, broken)
    return found


def _tensor(trace: Trace, name: str) -> Tensor:
    values = trace[name]
    assert isinstance(values, Tensor)  # the lists are of strings
    return values


def _on_the_verge(subject: Subject, rows: Tensor, margin: Tensor) -> Tensor:
    """Return whether a margin (n,) is so small that rounding may take it back, bool (n,)."""
    return margin <= 1e-4 * search.predict(subject.model, subject.x[rows]).abs().amax(1)


def late_rise(path: Tensor) -> Tensor:
    """Return the share of the best margin's rise that the last steps brought, the median over runs, (B,).

    Args:
        path: margin losses along each run, (runs, steps + 1, B); NaN once an example has stopped.

    Returns:
        In [0, 1]; 0 where nothing rose, NaN where every run stopped before its end.
    """
    best = path.nan_to_num(-torch.inf).cummax(1).values
    late, whole = best[:, -1] - best[:, -1 - LAST], best[:, -1] - path[:, 0]
    share = torch.where(whole > 0, late / whole.clamp_min(torch.finfo(path.dtype).tiny), torch.zeros_like(whole))
    return torch.where(path[:, -1].isnan(), torch.nan, share).nanmedian(0).values


def stationarity(subject: Subject, rows: Tensor, end: Tensor) -> Tensor:
    """Return max over ball and box of ⟨x' − x_end, g⟩ / (eps‖g‖), g the margin's gradient at x_end, (n,).

    Wang et al. 2019, 'On the Convergence and Robustness of Adversarial Training', eq. (5), with the box [0, 1] taken
    into account. 0: no direction improves a linear function any more; 2: x_end lies at the opposite end of the ball.

    Args:
        subject: images and ball.
        rows: the n images, bool (B,).
        end: where their runs ended, (n, C, H, W).
    """
    x, y = subject.x[rows], subject.y[rows]
    _, _, g = search.gradient(subject.model, end, lambda z: margin_loss(z, y))
    best = balls.farthest(x, g, subject.eps, subject.norm)
    gain = ((best - end) * g).flatten(1).double().sum(1)
    size = g.flatten(1).double().norm(dim=1) if subject.norm == "l2" else g.flatten(1).double().abs().sum(1)
    return torch.where(size > 0, gain / (subject.eps * size), torch.nan).clamp_min(0).to(x.dtype)
