"""Is a stage of restarts worth its passes after AutoAttack: what more attacks break of what AutoAttack leaves.

AutoAttack has one start per target. On networks that are trained here on digits, or that others trained, what it
reports robust is attacked again by short runs of PGD from many starts, by Square, and by Auto-PGD, each with seeds of
its own. Printed are, per further attack, how many more images it breaks, its passes per image attacked (forward and
backward), and its breaks per 1,000 passes of each image.

    python -m benchmarks.restarts                                   # four networks on digits
    python -m benchmarks.restarts --data DIR --eps 0.25             # the museum's four foreign networks on CIFAR-10
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from bench.attacks.apgd import apgd
from bench.attacks.autoattack import autoattack
from bench.attacks.pgd import pgd
from bench.attacks.square import square
from bench.core.torch_state import full_precision
from bench.measuring.judge import judge
from bench.measuring.passes import counted
from bench.museum.networks import Networks
from benchmarks.attacks import Case, digits_net
from tests.trust.museum import foreign_networks

DEFENSES: Final = ("standard", "gradreg", "lcnn_gradreg", "adversarial_training")
FURTHER: Final[Mapping[str, Callable[..., Tensor]]] = {
    "pgd, 20 runs of 40 steps": partial(pgd, restarts=10),
    "square, 5,000 queries": square,
    "apgd-ce, 8 restarts": partial(apgd, restarts=8),
    "apgd-t, 9 targets": partial(apgd, loss="targeted"),
}


def measure(case: Case, seeds: int) -> tuple[int, int, dict[str, tuple[list[int], float]]]:
    """Attack with AutoAttack, then what is left with each further attack and several seeds.

    Args:
        case: a network, its images and the budget.
        seeds: runs of each further attack; AutoAttack's own seed is 0, theirs are 1, 2, …

    Returns:
        Images classified right, images that AutoAttack leaves, and by attack the images broken by each seed and the
        passes per image.
    """
    with torch.no_grad(), full_precision(case.x.device):
        right = case.model(case.x).argmax(1) == case.y
        proposed = autoattack(case.model, case.x[right], case.y[right], eps=case.eps, norm="l2", seed=0)
    left = right.nonzero()[:, 0][~_broken(case, right, proposed)]
    if not len(left):
        return int(right.sum()), 0, {}
    found = {}
    for name, attack in FURTHER.items():
        hits, passes = [], 0
        for seed in range(1, seeds + 1):
            with counted(case.model) as cost, full_precision(case.x.device):
                proposed = attack(case.model, case.x[left], case.y[left], eps=case.eps, norm="l2", seed=seed)
            hits.append(int(_broken(case, left, proposed).sum()))
            passes += cost.forwards + cost.backwards
        found[name] = hits, passes / (seeds * len(left))
    return int(right.sum()), len(left), found


def _broken(case: Case, rows: Tensor, proposed: Tensor) -> Tensor:
    return judge(case.model, case.x[rows], case.y[rows], proposed, eps=case.eps, norm="l2").broken


def report(case: Case, seeds: int) -> None:
    """Measure a case and print its lines."""
    right, left, found = measure(case, seeds)
    print(f"\n{case.name}, l2 {case.eps:g}: {right} of {len(case.x)} right, AutoAttack leaves {left}", flush=True)
    for name, (hits, passes) in found.items():
        mean = sum(hits) / len(hits)
        print(
            f"  {name:26s} breaks {', '.join(map(str, hits))} more with seeds 1 … {seeds}; {passes:,.0f} passes per "
            f"image; {1000 * mean / (passes * left):.2g} images per 1,000 passes",
            flush=True,
        )


def cases(options: argparse.Namespace) -> list[Case]:
    """Train or load the networks that the options ask for."""
    found = []
    if options.data:
        networks = Networks(options.data)
        x, y = networks.images("cifar10-jpeg", options.images)
        for name in foreign_networks.NAMES:
            model = foreign_networks.foreign(networks, name)
            found.extend(Case(name, model, x, y, eps) for eps in options.eps)
        return found
    for defense in options.defense:
        model, x, y = digits_net(defense, {}, options.epochs)
        found.extend(Case(defense, model, x[: options.images], y[: options.images], eps) for eps in options.eps)
    return found


def main() -> None:
    """Read the options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--eps", type=float, nargs="+", default=[0.5], help="l2 radii")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each further attack")
    parser.add_argument("--defense", nargs="+", default=list(DEFENSES), help="networks trained on digits")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--data", type=Path, help="folder with nets/ and cifar10-jpeg/: those instead of digits")
    options = parser.parse_args()
    for case in cases(options):
        report(case, options.seeds)


if __name__ == "__main__":
    main()
