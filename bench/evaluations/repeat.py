"""The same attacks again: each stage of AutoAttack alone on every image, several runs with seeds of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Final

import numpy as np
import torch
from torch import Tensor, nn

from bench.attacks.apgd import apgd
from bench.attacks.fab import fab
from bench.attacks.square import square
from bench.core.decorators import evaluation
from bench.core.ranges import Ge
from bench.core.records import Column
from bench.measuring.attack_call import AttackCall
from bench.measuring.budgets import check_budgets
from bench.measuring.judge import predict

SOURCE: Final = "Croce and Hein 2020, section 5, stage by stage; bound: bench.core.stats.repeat"


@dataclass(frozen=True, slots=True)
class _Kind:
    """One kind of attack: the names of its arguments among the evaluation's, and whether a seed changes it."""

    attack: Callable[..., Tensor]
    arguments: tuple[str, ...]
    has_random_part: bool = True

    @property
    def runs(self) -> int | None:
        """How many runs it has; None: as many as asked for."""
        return None if self.has_random_part else 1


KINDS: Final[Mapping[str, _Kind]] = {
    "apgd-ce": _Kind(partial(apgd, loss="ce"), ("steps",)),
    "apgd-t": _Kind(partial(apgd, loss="targeted"), ("steps", "n_target_classes")),
    "fab-t": _Kind(fab, ("steps", "n_target_classes"), has_random_part=False),
    "square": _Kind(square, ("n_queries",)),
}


def describe_repeat(norm: str) -> dict[str, Column]:
    """Return what the repeated attacks in a norm give, by pattern of the column's name.

    Args:
        norm: "l2" or "linf".
    """
    found: dict[str, Column] = {}
    for name, kind in KINDS.items():
        prefix = f"repeat_{norm}_{{eps}}_{name.replace('-', '_')}"
        params: dict[str, float | str] = {"norm": norm, "kind": name, "random": float(kind.has_random_part)}
        found[f"{prefix}_{{run}}"] = Column(
            f"1 if this run of {name} alone breaks the example within eps ({norm}), else 0; missing if it is "
            "misclassified without an attack, or if earlier runs had decided its part in the two counts.",
            source=SOURCE,
            role="repeat",
            params=params,
            shown=False,
        )
        if kind.has_random_part:
            found[f"{prefix}_seed_used"] = Column(
                f"1 if the second run of {name} ended at another point than the first, 0 if at the same one; missing "
                "without a second run.",
                source=SOURCE,
                role="repeat_seed_used",
                params=params,
                shown=False,
            )
    return found


def settled(broken: Sequence[np.ndarray], kind: int) -> np.ndarray:
    """Tell on which images further runs of a kind can change neither the bound nor the only-by table, bool (n,).

    "Broken by exactly one run" is decided once two runs have broken an image. "Broken by one kind alone" is decided
    once two kinds have, and for the kind itself as soon as it has. Both must be, so that the runs of the other kinds
    go on where a single kind has broken an image.

    Args:
        broken: one array per kind, images broken by each of its runs so far, bool (runs, n).
        kind: place of the kind whose further runs are asked for.

    Returns:
        True where nothing is open for this kind.
    """
    by_kind = np.stack([runs.any(0) for runs in broken])
    times = np.sum([runs.sum(0) for runs in broken], axis=0)
    return (times >= 2) & ((by_kind.sum(0) >= 2) | by_kind[kind])


class _Runs:
    """What every run has shown so far on a batch: 1 broken, 0 not, NaN left out."""

    def __init__(self, runs: int, images: int) -> None:
        self.broken = {name: np.full((kind.runs or runs, images), np.nan) for name, kind in KINDS.items()}
        self.seed_used = {name: np.full(images, np.nan) for name, kind in KINDS.items() if kind.has_random_part}
        self._first: dict[str, Tensor] = {}

    def rows(self, correct: np.ndarray, name: str, run: int) -> np.ndarray:
        """Return the places of the images that a run must attack, (n,): all in the first run of each kind."""
        if run == 0:
            return correct.nonzero()[0]
        return (correct & ~settled([b == 1 for b in self.broken.values()], list(KINDS).index(name))).nonzero()[0]

    def add(self, name: str, run: int, rows: np.ndarray, broken: Tensor, points: Tensor) -> None:
        """Add a run.

        Args:
            name: of its kind.
            run: its number among the runs of that kind.
            rows: places of the n images that it attacked.
            broken: the verdict on them, bool (n,).
            points: where it ended, (B, C, H, W), the images themselves where not attacked.
        """
        self.broken[name][run, rows] = broken.cpu().numpy()
        if run == 0:
            self._first[name] = points
        elif run == 1:
            moved = (points != self._first[name]).flatten(1).any(1)
            self.seed_used[name][rows] = moved.cpu().numpy()[rows]

    def columns(self, prefix: str) -> dict[str, Tensor]:
        """Return the columns by name, (B,) each."""
        found: dict[str, Tensor] = {}
        for name, broken in self.broken.items():
            start = f"{prefix}_{name.replace('-', '_')}"
            found |= {f"{start}_{run}": torch.from_numpy(values) for run, values in enumerate(broken)}
            if name in self.seed_used:
                found[f"{start}_seed_used"] = torch.from_numpy(self.seed_used[name])
        return found


def _repeat(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str,
    eps: Sequence[float],
    seed: int,
    runs: int,
    arguments: Mapping[str, object],
) -> dict[str, Tensor]:
    """Run every kind on every image, and again on those whose part in the counts is open."""
    columns: dict[str, Tensor] = {}
    correct = (predict(model, x) == y).cpu().numpy()
    for budget in check_budgets(f"repeat_{norm}", eps, norm, x.shape[1:]):
        prefix, found = f"repeat_{norm}_{budget:g}", _Runs(runs, len(x))
        for run in range(runs):
            for name, kind in KINDS.items():
                rows = found.rows(correct, name, run)
                if run >= (kind.runs or runs) or not len(rows):
                    continue
                settings = {key: arguments[key] for key in kind.arguments}
                call = AttackCall(kind.attack, prefix, norm, seed + run, settings)
                at = torch.from_numpy(rows).to(x.device)
                judged, _ = call.run(model, x[at], y[at], budget)
                found.add(name, run, rows, judged.broken, x.index_copy(0, at, judged.x_adv))
        columns |= found.columns(prefix)
    return columns


@evaluation(source=SOURCE, columns=describe_repeat("l2"), chunk=100, automatic="repeat", gradients=True)
def repeat_l2(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 0,
    eps: Sequence[float] = (0.5,),
    runs: Annotated[int, Ge(1)] = 5,
    steps: Annotated[int, Ge(1)] = 100,
    n_target_classes: Annotated[int, Ge(1)] = 9,
    n_queries: Annotated[int, Ge(1)] = 5000,
) -> dict[str, Tensor]:
    """Attack images x (B, C, H, W) with each stage of AutoAttack alone, `runs` times with other seeds, in l2.

    No stage profits from another's success, which AutoAttack itself does not show. From the columns follow what each
    kind alone broke, and a bound on what one more run of each would break (`bench.core.stats.repeat`): they never
    change accuracy, rank or grade. Run r of a kind has seed `seed` + r; FAB has no random part and runs once. An image
    is left out of further runs of a kind as soon as they can change neither number; one that resists all of them costs
    about five times the passes of AutoAttack.

    Args:
        model: network in eval mode, images to logits (B, K).
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels (B,).
        seed: of the first run of each kind.
        eps: radii of the balls.
        runs: of each kind with a random part; the bound needs 3.
        steps: of APGD and FAB; this and the next two as in AutoAttack.
        n_target_classes: other classes tried by targeted APGD and FAB.
        n_queries: of Square.

    Returns:
        The columns by name, (B,) each.

    Raises:
        BenchError: something was not finite.
        UsageError: an impossible eps.
    """
    arguments = {"steps": steps, "n_target_classes": n_target_classes, "n_queries": n_queries}
    return _repeat(model, x, y, norm="l2", eps=eps, seed=seed, runs=runs, arguments=arguments)


@evaluation(source=SOURCE, columns=describe_repeat("linf"), chunk=100, automatic="repeat", gradients=True)
def repeat_linf(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 0,
    eps: Sequence[float] = (8 / 255,),
    runs: Annotated[int, Ge(1)] = 5,
    steps: Annotated[int, Ge(1)] = 100,
    n_target_classes: Annotated[int, Ge(1)] = 9,
    n_queries: Annotated[int, Ge(1)] = 5000,
) -> dict[str, Tensor]:
    """Attack images x (B, C, H, W) with each stage of AutoAttack alone, `runs` times with other seeds, in linf.

    See `repeat_l2`, whose arguments it has.

    Returns:
        The columns by name, (B,) each.

    Raises:
        BenchError: something was not finite.
        UsageError: an impossible eps.
    """
    arguments = {"steps": steps, "n_target_classes": n_target_classes, "n_queries": n_queries}
    return _repeat(model, x, y, norm="linf", eps=eps, seed=seed, runs=runs, arguments=arguments)
