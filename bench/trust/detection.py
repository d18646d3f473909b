"""Measure the share of planted adversarial examples that each attack finds, at graded hardness."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from torch import Tensor

from bench.attacks.apgd import apgd
from bench.attacks.autoattack import autoattack
from bench.attacks.fab import fab
from bench.attacks.peers import cleverhans, foolbox, pyautoattack, torchattacks
from bench.attacks.pgd import pgd
from bench.attacks.square import square
from bench.trust.detection_curves import Curve, DetectionReport, MeasuredLevel
from bench.trust.maxout import Level
from bench.trust.planted import build, recall

LEVELS: Final = (*(Level(tau) for tau in (-0.5, -0.2, -0.1, 0.0, 0.1, 0.2)), Level(0.1, own=False))
SEEDS: Final = (0, 1, 2)  # of the networks; each network's attacks run with the same seed
QUICK_IMAGES: Final = 40  # per network
FULL_IMAGES: Final = 200


@dataclass(frozen=True, slots=True)
class MeasuredAttack:
    """An attack whose recall is measured.

    Attributes:
        function: `attack(model, x, y, *, eps, norm, seed) -> x_adv`.
        ranks_suites: whether the shipped suites rank or list defenses by it, with these settings.
        note: how it is set.
    """

    function: Callable[..., Tensor]
    ranks_suites: bool = False
    note: str = ""


ATTACKS: Final[Mapping[str, MeasuredAttack]] = {
    "pgd, 1 run": MeasuredAttack(partial(pgd, losses=("ce",)), note="cross-entropy, 40 steps, as the other libraries"),
    "foolbox pgd": MeasuredAttack(foolbox.pgd, note="same settings, last point"),
    "cleverhans pgd": MeasuredAttack(cleverhans.pgd, note="same settings, last point"),
    "torchattacks pgd": MeasuredAttack(torchattacks.pgd, note="same settings, last point"),
    "pgd": MeasuredAttack(pgd, ranks_suites=True, note="defaults: one run on each of two losses"),
    "pgd, 20 runs": MeasuredAttack(partial(pgd, restarts=10), note="ten restarts on each of two losses"),
    "apgd": MeasuredAttack(apgd, note="defaults: cross-entropy, 100 steps"),
    "fab": MeasuredAttack(fab, note="defaults: 9 targets"),
    "square": MeasuredAttack(square, note="defaults: 5,000 queries"),
    "autoattack": MeasuredAttack(autoattack, ranks_suites=True, note="defaults: the four standard stages"),
    "official autoattack": MeasuredAttack(pyautoattack.autoattack, note="package pyautoattack, standard"),
}


def measure_detection(
    *,
    images: int = QUICK_IMAGES,
    levels: Sequence[Level] = LEVELS,
    seeds: Sequence[int] = SEEDS,
    attacks: Mapping[str, MeasuredAttack] = ATTACKS,
    report_progress: Callable[[str], None] = lambda line: None,
) -> DetectionReport:
    """Build the networks of every level and seed and run every attack on all their images.

    Args:
        images: per network.
        levels: of hardness.
        seeds: of the networks and of the attacks on them.
        attacks: by name; those whose library is not installed are left out and named.
        report_progress: is given one line per network.

    Returns:
        The curves, with their intervals and limits.
    """
    found = {name: np.zeros((len(levels), len(seeds)), int) for name in attacks}
    measured, absent = [], set()
    for row, level in enumerate(levels):
        truths = [build(level, n=images, seed=seed) for seed in seeds]
        for column, (truth, seed) in enumerate(zip(truths, seeds, strict=True)):
            report_progress(f"{_level_name(level)}, network {column + 1} of {len(seeds)}")
            for name in [name for name in attacks if name not in absent]:
                try:
                    found[name][row, column] = int(recall(attacks[name].function, truth, seed=seed).found.sum())
                except ModuleNotFoundError:
                    absent.add(name)
        starts = [(float(t.easy_starts.mean()), float(t.easy_class_starts.mean())) for t in truths]
        measured.append(MeasuredLevel(level, *(float(share) for share in np.mean(starts, axis=0))))
    curves = tuple(
        Curve(name, found[name], images, attack.ranks_suites, attack.note)
        for name, attack in attacks.items()
        if name not in absent
    )
    return DetectionReport(tuple(measured), curves, tuple(seeds), tuple(sorted(absent)))


def _level_name(level: Level) -> str:
    return f"tau {level.tau:g}" + ("" if level.own else ", planted class without decoys")
