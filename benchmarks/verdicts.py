"""Verdicts of several attacks on one network, kept in a file so that a benchmark of hours can be ended and resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import torch
from torch import Tensor

from benchmarks.attacks import Case, Side, breaking_seeds, measure


@dataclass
class Network:
    """What the attacks said of one network.

    Attributes:
        name: network, norm and budget.
        sides: name of the attack → what it took and said.
        seeds: loser, image → seeds with which it breaks the image that another attack broke with seed 0.
    """

    name: str
    sides: dict[str, Side] = field(default_factory=dict)
    seeds: dict[str, dict[int, list[int]]] = field(default_factory=dict)

    def robust(self, name: str) -> Tensor:
        """Return which images an attack has left, bool (B,)."""
        return robust(self.sides[name])

    def only_broken(self, winner: str, loser: str) -> list[int]:
        """Return the images that the one breaks and the other does not."""
        found: list[int] = (self.robust(loser) & ~self.robust(winner)).nonzero()[:, 0].tolist()
        return found


def robust(side: Side) -> Tensor:
    """Return which images an attack has left, bool (B,)."""
    assert side.robust is not None
    return side.robust


class _KeptSide(TypedDict):
    """What an attack took and said, in the file."""

    seconds: list[float]
    forwards: int
    backwards: int
    robust: list[bool]


class _KeptNetwork(TypedDict):
    """What is known of a network, in the file; images are keys in decimal."""

    name: str
    sides: dict[str, _KeptSide]
    seeds: dict[str, dict[str, list[int]]]


class Kept:
    """What has been computed already, by network, images and budget.

    Args:
        path: a JSON file that need not exist; written after each attack. None: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.data: dict[str, _KeptNetwork] = json.loads(path.read_text()) if path and path.is_file() else {}

    def network(self, case: Case) -> Network:
        """Return what is known of a network; one with other weights or other images is another network."""
        name, found = f"{case.name}, {case.norm} {case.eps:.4g}", self.data.get(_key(case))
        if found is None:
            return Network(name)
        sides = {
            k: Side(v["seconds"], v["forwards"], v["backwards"], torch.tensor(v["robust"]))
            for k, v in found["sides"].items()
        }
        return Network(name, sides, {k: {int(i): s for i, s in v.items()} for k, v in found["seeds"].items()})

    def put(self, case: Case, network: Network) -> None:
        """Keep what is known of a network."""
        sides = {
            k: _KeptSide(
                seconds=v.seconds, forwards=v.forwards, backwards=v.backwards, robust=network.robust(k).tolist()
            )
            for k, v in network.sides.items()
        }
        seeds = {k: {str(i): s for i, s in v.items()} for k, v in network.seeds.items()}
        self.data[_key(case)] = _KeptNetwork(name=network.name, sides=sides, seeds=seeds)
        if self.path:
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.data, indent=1))
            part.replace(self.path)


def _key(case: Case) -> str:
    """Return a name for a network with its images and budget: its logits are part of it."""
    with torch.no_grad():
        logits = case.model(case.x)
    digest = hashlib.sha256(logits.numpy().tobytes() + case.y.numpy().tobytes()).hexdigest()[:12]
    return f"{case.name}, {case.norm} {case.eps:.4g}, {len(case.y)} images, {digest}"


def attacked(case: Case, contenders: dict[str, Callable[..., Tensor]], blocks: int, kept: Kept) -> Network:
    """Let attacks take turns on a network until each has had its turns; what is kept counts.

    Args:
        case: the network.
        contenders: name to attack.
        blocks: turns of each.
        kept: earlier turns; those of this call are added.

    Returns:
        What each took and said.
    """
    network = kept.network(case)
    for block in range(blocks):
        for name in contenders if block % 2 else reversed(contenders):
            side = network.sides.setdefault(name, Side([]))
            if len(side.seconds) <= block:
                measure(side, contenders[name], case, {})
                kept.put(case, network)
    return network


def seeds_of_losers(
    case: Case, network: Network, pairs: list[tuple[str, str]], contenders: dict[str, Callable[..., Tensor]], kept: Kept
) -> Iterator[tuple[str, str, int, list[int]]]:
    """Yield every difference between pairs of attacks: winner, loser, image, seeds with which the loser breaks it too.

    Args:
        case: the network.
        network: what each attack said of it.
        pairs: names of the attacks to compare.
        contenders: name to attack.
        kept: seeds tried earlier; those of this call are added.
    """
    for one, other in pairs:
        for winner, loser in ((one, other), (other, one)):
            for row in network.only_broken(winner, loser):
                tried = network.seeds.setdefault(loser, {})
                if row not in tried:
                    tried[row] = breaking_seeds(case, row, contenders[loser], {})
                    kept.put(case, network)
                yield winner, loser, row, tried[row]
