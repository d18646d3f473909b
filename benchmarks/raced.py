"""AutoAttack, ours in full and by racing, against the official package's: CPU time, passes, and verdicts that differ.

The three take turns in one process. The networks: five defenses trained here on digits, one of them also with its
logits times 30 (saturated); with `--data DIR`, which has nets/ and cifar10-jpeg/, the museum's four foreign networks on
CIFAR-10 and a ResNet-18 of width 16 that is trained here adversarially. Ours in full and by racing have the same seed:
what only the one in full breaks, the race has missed. What only ours or only the official one breaks is listed with the
other seeds with which the loser breaks it. The last lines count the verdicts over all networks.

    python -m benchmarks.raced --images 200                                      # digits, both norms
    python -m benchmarks.raced --images 0 --data DIR --big-images 30             # the foreign networks
    python -m benchmarks.raced --images 0 --data DIR --big-images 0 --resnet-images 40
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from bench.attacks.autoattack import autoattack
from bench.attacks.autoattack_raced import autoattack_raced
from bench.attacks.peers import pyautoattack
from bench.data.catalog import load
from bench.museum.networks import Networks
from bench.running.machine import keep_memory
from benchmarks.attacks import Case, Side, digits_net, explain, measure, trained_net
from tests.trust.museum import foreign_networks

DIGITS: Final = ("standard", "lcnn", "gradreg", "adversarial_training", "vanilla")
DIGITS_EPS: Final = {"l2": 0.5, "linf": 0.08}
CIFAR_EPS: Final = {"l2": 0.25, "linf": 2 / 255}
RESNET_EPS: Final = {"l2": 0.05, "linf": 0.5 / 255}
PAIRS: Final = (("raced", "full"), ("full", "official"), ("raced", "official"))
BROKEN_EPS: Final = {"l2": 2.0}  # a ball in which nothing withstands


class Saturated(nn.Module):
    """The same decisions with logits times 30."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of images x (B, C, H, W)."""
        logits: Tensor = self.model(x)
        return 30 * logits


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield the networks with their images and budgets."""
    norms = options.norm
    for defense in options.defense if options.images else ():
        model, x, y = digits_net(defense, {}, options.epochs)
        x, y = x[: options.images], y[: options.images]
        yield from (Case(f"{defense} (digits)", model, x, y, DIGITS_EPS[norm], norm) for norm in norms)
        if defense == "vanilla":
            saturated = Saturated(model).eval()
            yield from (Case("saturated (digits)", saturated, x, y, DIGITS_EPS[norm], norm) for norm in norms)
            yield Case("vanilla (digits), nothing withstands", model, x, y, BROKEN_EPS["l2"], "l2")
    if options.data and options.big_images:
        networks = Networks(options.data)
        x, y = networks.images("cifar10-jpeg", options.big_images)
        for name in foreign_networks.NAMES:
            model = foreign_networks.foreign(networks, name)
            yield from (Case(f"{name} (CIFAR-10)", model, x, y, CIFAR_EPS[norm], norm) for norm in norms)
    if options.data and options.resnet_images:
        data = load("cifar10", data_dir=options.data, limit=options.resnet_images, download=False, train_limit=2000)
        model, x, y = trained_net("adversarial_training", {}, 4, data, "resnet18-w16")
        yield from (Case("ResNet-18, width 16 (CIFAR-10)", model, x, y, RESNET_EPS[norm], norm) for norm in norms)


def options_of_cases(description: str | None, *, images: int, big_images: int) -> argparse.ArgumentParser:
    """Return a parser of the options that `cases` reads.

    Args:
        description: of the benchmark.
        images: default of `--images`.
        big_images: default of `--big-images`.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=images, help="digits per network; 0 leaves them out")
    parser.add_argument("--data", type=Path, help="folder with nets/ and cifar10-jpeg/")
    parser.add_argument("--big-images", type=int, default=big_images, help="images for the foreign networks")
    parser.add_argument("--resnet-images", type=int, default=0, help="images for the ResNet, which is trained here")
    parser.add_argument("--defense", nargs="+", default=list(DIGITS), help="networks trained on digits")
    parser.add_argument("--norm", nargs="+", default=["l2", "linf"])
    parser.add_argument("--epochs", type=int, default=8)
    return parser


def attacks(sample: float) -> dict[str, Callable[..., Tensor]]:
    """Return the three contenders by name.

    Args:
        sample: share of the images that the race draws for the full procedure.
    """
    raced = partial(autoattack_raced, sample=sample)
    return {"raced": raced, "full": autoattack, "official": pyautoattack.autoattack}


def race(case: Case, contenders: dict[str, Callable[..., Tensor]], blocks: int) -> dict[str, Side]:
    """Let the contenders take turns on a network, and print a line for each and each difference in verdicts.

    Args:
        case: the network.
        contenders: name to attack.
        blocks: turns of each.

    Returns:
        What each took and said, by name.
    """
    sides = {name: Side([]) for name in contenders}
    for block in range(blocks):
        for name in contenders if block % 2 else reversed(contenders):
            measure(sides[name], contenders[name], case, {})
    official = sides["official"]
    for name, side in sides.items():
        ratio = statistics.median(o / s for o, s in zip(official.seconds, side.seconds, strict=True))
        passes = (official.forwards + official.backwards) / max(1, side.forwards + side.backwards)
        print(
            f"  {name:<9} official / it {ratio:6.2f} in CPU time ({statistics.median(side.seconds):.1f} s), "
            f"{passes:6.2f} in passes; robust {int(robust(side).sum())} of {len(case.y)}",
            flush=True,
        )
    for one, other in PAIRS:
        for winner, loser in ((one, other), (other, one)):
            rows = only_broken(sides[winner], sides[loser])
            if rows:
                print(f"  only {winner}, not {loser}, breaks {rows}", flush=True)
                explain(case, rows, contenders[loser], {})
    return sides


def robust(side: Side) -> Tensor:
    """Return which images a contender has left, bool (B,)."""
    assert side.robust is not None
    return side.robust


def only_broken(winner: Side, loser: Side) -> list[int]:
    """Return the images that the one breaks and the other does not."""
    found: list[int] = (robust(loser) & ~robust(winner)).nonzero()[:, 0].tolist()
    return found


def main() -> None:
    """Parse the command line and print the comparison."""
    parser = options_of_cases(__doc__, images=200, big_images=30)
    parser.add_argument("--sample", type=float, default=0.25, help="share of the images drawn for the full procedure")
    parser.add_argument("--blocks", type=int, default=1, help="turns of each side")
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    images, differ, networks = 0, dict.fromkeys(PAIRS, 0), 0
    for case in cases(options):
        print(f"\n{case.name}, {case.norm} {case.eps:.4g}, {len(case.y)} images", flush=True)
        sides = race(case, attacks(options.sample), options.blocks)
        images, networks = images + len(case.y), networks + 1
        for one, other in PAIRS:
            differ[one, other] += int((robust(sides[one]) != robust(sides[other])).sum())
    print(f"\n{images} verdicts on {networks} pairs of network and budget")
    for (one, other), count in differ.items():
        print(f"  {one} and {other} agree on {1 - count / max(1, images):.2%}, and differ on {count} images")


if __name__ == "__main__":
    main()
