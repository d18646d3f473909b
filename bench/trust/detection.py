"""Measure the share of planted adversarial examples that each attack finds, at graded hardness."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from torch import Tensor

from bench.attacks.apgd import apgd
from bench.attacks.autoattack import autoattack
from bench.attacks.autoattack_raced import autoattack_raced
from bench.attacks.fab import fab
from bench.attacks.fgsm import fgsm
from bench.attacks.fmn import fmn
from bench.attacks.hopskipjump import hopskipjump
from bench.attacks.noise import noise
from bench.attacks.peers import advlib, attackbench, cleverhans, foolbox, pyautoattack, secml, torchattacks
from bench.attacks.pgd import pgd
from bench.attacks.pgd_released import pgd_released
from bench.attacks.square import square
from bench.trust.detection_curves import Curve, DetectionReport, MeasuredLevel
from bench.trust.maxout import Level
from bench.trust.planted import build, recall

PEERS: Final = "bench.attacks.peers"
LEVELS: Final = (*(Level(tau) for tau in (-0.5, -0.2, -0.1, 0.0, 0.1, 0.2)), Level(0.1, own=False))
SEEDS: Final = (0, 1, 2)  # of the networks; each network's attacks run with the same seed
QUICK_IMAGES: Final = 40  # per network
FULL_IMAGES: Final = 200
PEER_PACKAGES: Final = ("torchattacks", "adv-lib", "secml-torch", "attackbenchlib")  # the optional ones
LEFT_OUT: Final[Mapping[str, str]] = {  # of the peers' attacks
    "advlib pgd": "the library has it in linf only, and the planted balls are l2",
    "torchattacks fgsm": "the library has it in linf only, and the planted balls are l2",
}


@dataclass(frozen=True, slots=True)
class MeasuredAttack:
    """An attack whose recall is measured.

    Attributes:
        function: `attack(model, x, y, *, eps, norm, seed) -> x_adv`.
        family: what it is compared with; a panel of the figure.
        ranks_suites: whether the shipped suites rank or list defenses by it, with these settings.
        note: how it is set.
    """

    function: Callable[..., Tensor]
    family: str = ""
    ranks_suites: bool = False
    note: str = ""

    @property
    def written(self) -> Callable[..., Tensor]:
        """The function as its file has it, without settings and checks of arguments."""
        function = self.function.func if isinstance(self.function, partial) else self.function
        return inspect.unwrap(function)

    @property
    def library(self) -> str:
        """The module of attacks/peers that calls it; "" for an attack of our own."""
        package, _, module = self.written.__module__.rpartition(".")
        return module if package == PEERS else ""


ATTACKS: Final[Mapping[str, MeasuredAttack]] = {
    "fgsm": MeasuredAttack(fgsm, "one step", note="one step of full length"),
    "foolbox fgsm": MeasuredAttack(foolbox.fgsm, "one step", note="the same step"),
    "cleverhans fgsm": MeasuredAttack(cleverhans.fgsm, "one step", note="the same step"),
    "pgd, 1 run": MeasuredAttack(
        partial(pgd, losses=("ce",)), "PGD", note="cross-entropy, 40 steps, as the other libraries"
    ),
    "foolbox pgd": MeasuredAttack(foolbox.pgd, "PGD", note="same settings, last point"),
    "cleverhans pgd": MeasuredAttack(cleverhans.pgd, "PGD", note="same settings, last point"),
    "torchattacks pgd": MeasuredAttack(torchattacks.pgd, "PGD", note="same settings, last point"),
    "secml pgd": MeasuredAttack(
        secml.pgd, "PGD", note="same settings; starts near one point; the worst of all points but the last"
    ),
    "pgd_released": MeasuredAttack(pgd_released, "PGD", note="defaults: 10 steps of a tenth of the radius"),
    "pgd": MeasuredAttack(pgd, "PGD", ranks_suites=True, note="defaults: one run on each of two losses"),
    "pgd, 20 runs": MeasuredAttack(partial(pgd, restarts=10), "PGD", note="ten restarts on each of two losses"),
    "apgd": MeasuredAttack(apgd, "Auto-PGD", note="defaults: cross-entropy, 100 steps"),
    "official apgd": MeasuredAttack(pyautoattack.apgd, "Auto-PGD", note="package pyautoattack, same settings"),
    "advlib apgd": MeasuredAttack(advlib.apgd, "Auto-PGD", note="same settings"),
    "attackbench apgd": MeasuredAttack(attackbench.apgd, "Auto-PGD", note="same settings"),
    "fab": MeasuredAttack(fab, "minimum norm", note="defaults: 9 targets"),
    "official fab": MeasuredAttack(pyautoattack.fab, "minimum norm", note="package pyautoattack, same settings"),
    "fmn": MeasuredAttack(fmn, "minimum norm", note="defaults: 100 steps"),
    "advlib fmn": MeasuredAttack(advlib.fmn, "minimum norm", note="same settings, another rule for the radius"),
    "noise": MeasuredAttack(noise, "no gradient", note="defaults: 100 random points"),
    "hopskipjump": MeasuredAttack(hopskipjump, "no gradient", note="defaults: about 1,000 decisions"),
    "square": MeasuredAttack(square, "no gradient", note="defaults: 5,000 queries"),
    "official square": MeasuredAttack(
        pyautoattack.square, "no gradient", note="package pyautoattack, same settings; leaves last row and column"
    ),
    "autoattack": MeasuredAttack(autoattack, "ensemble", ranks_suites=True, note="defaults: the four standard stages"),
    "autoattack_raced": MeasuredAttack(
        autoattack_raced, "ensemble", note="defaults: short stages, then all four on a part of the survivors"
    ),
    "official autoattack": MeasuredAttack(pyautoattack.autoattack, "ensemble", note="package pyautoattack, standard"),
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
        Curve(name, found[name], images, attack.ranks_suites, attack.note, attack.family, attack.library)
        for name, attack in attacks.items()
        if name not in absent
    )
    return DetectionReport(tuple(measured), curves, tuple(seeds), tuple(sorted(absent)))


def _level_name(level: Level) -> str:
    return f"tau {level.tau:g}" + ("" if level.own else ", planted class without decoys")
