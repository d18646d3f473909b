"""AutoAttack, ours in full and by racing, against the official package's: CPU time, passes, and verdicts that differ.

They take turns in one process, and with them the official one with another seed ("again"): two runs of it do not agree
on every image either. The networks: five defenses trained here on digits, one of them also with its
logits times 30 (saturated); with `--data DIR`, which has nets/ and cifar10-jpeg/, the museum's four foreign networks on
CIFAR-10 and a ResNet-18 of width 16 that is trained here adversarially. Ours in full and by racing have the same seed:
what only the one in full breaks, the race has missed. What only ours or only the official one breaks is listed with the
other seeds with which the loser breaks it. The last lines are the table and the verdicts over all networks. With
`--json FILE` what is computed is kept there after each attack: the same command goes on.

    python -m benchmarks.raced --images 200                                      # digits, both norms
    python -m benchmarks.raced --images 0 --data DIR --big-images 30             # the foreign networks
    python -m benchmarks.raced --images 0 --data DIR --big-images 0 --resnet-images 40
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Iterator
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
from benchmarks.attacks import SEEDS, Case, digits_net, trained_net
from benchmarks.verdicts import Kept, Network, attacked, seeds_of_losers
from tests.trust.museum import foreign_networks

DIGITS: Final = ("standard", "lcnn", "gradreg", "adversarial_training", "vanilla")
DIGITS_EPS: Final = {"l2": 0.5, "linf": 0.08}
CIFAR_EPS: Final = {"l2": 0.25, "linf": 2 / 255}
RESNET_EPS: Final = {"l2": 0.05, "linf": 0.5 / 255}
OFFICIAL: Final = "official"
PAIRS: Final = (("raced", "full"), ("full", OFFICIAL), ("raced", OFFICIAL), ("again", OFFICIAL))
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
    """Return the contenders by name.

    Args:
        sample: share of the images that the race draws for the full procedure.
    """
    return {
        "raced": partial(autoattack_raced, sample=sample),
        "full": autoattack,
        "official": pyautoattack.autoattack,
        "again": _again,
    }


def _again(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, seed: int) -> Tensor:
    """Run the official attack with another seed: how far it agrees with itself."""
    return pyautoattack.autoattack(model, x, y, eps=eps, norm=norm, seed=seed + 10)


def race(case: Case, contenders: dict[str, Callable[..., Tensor]], blocks: int, kept: Kept) -> Network:
    """Let the contenders take turns on a network, and print a line for each and each difference in verdicts.

    Args:
        case: the network.
        contenders: name to attack.
        blocks: turns of each.
        kept: what has been computed already.

    Returns:
        What each took and said.
    """
    network = attacked(case, contenders, blocks, kept)
    official = network.sides[OFFICIAL]
    for name in contenders:
        side = network.sides[name]
        ratio = statistics.median(o / s for o, s in zip(official.seconds, side.seconds, strict=False))
        passes = (official.forwards + official.backwards) / max(1, side.forwards + side.backwards)
        print(
            f"  {name:<9} official / it {ratio:6.2f} in CPU time ({statistics.median(side.seconds):.1f} s), "
            f"{passes:6.2f} in passes; robust {int(network.robust(name).sum())} of {len(case.y)}",
            flush=True,
        )
    for winner, loser, row, seeds in seeds_of_losers(case, network, _pairs(contenders), contenders, kept):
        print(
            f"  only {winner}, not {loser}, breaks image {row}, which {loser} breaks with seeds {seeds} of {SEEDS}",
            flush=True,
        )
    return network


def _pairs(contenders: Iterable[str]) -> list[tuple[str, str]]:
    """Return the pairs to compare, of those that take part."""
    names = set(contenders)
    return [pair for pair in PAIRS if names.issuperset(pair)]


def table(networks: list[Network], contenders: list[str]) -> str:
    """Return the table of all networks: robust by each contender, and each difference."""
    lines = [
        f"| network | images | robust, {' / '.join(contenders)} | official / full, CPU time | differences |",
        "|---|---|---|---|---|",
    ]
    for network in networks:
        counts = " / ".join(str(int(network.robust(name).sum())) for name in contenders)
        ratio = "not measured"
        if "full" in contenders:
            seconds = [statistics.median(network.sides[name].seconds) for name in (OFFICIAL, "full")]
            ratio = f"{seconds[0] / seconds[1]:.2f}"
        apart = [
            f"{row}: only {winner}, not {loser}; {loser} with seeds {network.seeds[loser][row]} too"
            for pair in _pairs(contenders)
            for winner, loser in (pair, pair[::-1])
            for row in network.only_broken(winner, loser)
        ]
        images = len(network.robust(OFFICIAL))
        lines.append(f"| {network.name} | {images} | {counts} | {ratio} | {'. '.join(apart)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and print the comparison."""
    parser = options_of_cases(__doc__, images=200, big_images=30)
    parser.add_argument("--sample", type=float, default=0.25, help="share of the images drawn for the full procedure")
    parser.add_argument("--blocks", type=int, default=1, help="turns of each side")
    parser.add_argument("--without", nargs="+", default=[], choices=("raced", "full", "again"), help="leave these out")
    parser.add_argument("--json", type=Path, help="file that keeps what is computed: the same command goes on from it")
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(1)
    contenders = {name: attack for name, attack in attacks(options.sample).items() if name not in options.without}
    kept, networks = Kept(options.json), []
    for case in cases(options):
        print(f"\n{case.name}, {case.norm} {case.eps:.4g}, {len(case.y)} images", flush=True)
        networks.append(race(case, contenders, options.blocks, kept))
    images = sum(len(network.robust(OFFICIAL)) for network in networks)
    print(f"\n{table(networks, list(contenders))}\n\n{images} verdicts on {len(networks)} pairs of network and budget")
    for one, other in _pairs(contenders):
        count = sum(int((network.robust(one) != network.robust(other)).sum()) for network in networks)
        print(f"  {one} and {other} agree on {1 - count / max(1, images):.2%}, and differ on {count} images")


if __name__ == "__main__":
    main()
