"""Planted truth: what share of known adversarial examples an attack finds, at graded hardness.

In a maxout network with decoys every image has an adversarial example and all of them lie in a known cap, by proof. So
an attack that reports robust has missed one. The later the planted piece sets in (larger τ), the fewer starts have it
as their largest piece: hardness is −log2 of that share, a property of the network, measured without any attack.
Gradients are correct everywhere: this measures the search among basins, not gradient masking.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn

from bench.measuring.judge import judge
from bench.trust.maxout import EPS, Level, MaxoutNetwork, Proof, draw_network, prove

GREY: Final = (0.15, 0.85)  # pixel range of the images: at 0 and 1 the box would push all directions into one orthant
SEPARATION: Final = 1.001  # smallest distance of two images over 2·eps


@dataclass(frozen=True, slots=True)
class PlantedTruth:
    """A network with known adversarial examples, its images, and what is known of them.

    Attributes:
        level: how well they are hidden.
        network: float32, in eval mode; what attacks see.
        exact: the same network in float64 inside, float32 outside; what judges.
        x: clean images, (n, 1, 8, 8) float32.
        y: labels, (n,).
        planted: one adversarial example per image, (n, 1, 8, 8) float32.
        proof: why there are no others outside the caps.
        easy_starts: share of uniform starts in each image's ball whose largest piece is the planted one, (n,).
        easy_class_starts: the same share with only the planted class's pieces compared, (n,).
        eps: radius of the balls, l2.
    """

    level: Level
    network: MaxoutNetwork
    exact: nn.Module
    x: Tensor
    y: Tensor
    planted: Tensor
    proof: Proof
    easy_starts: Tensor
    easy_class_starts: Tensor
    eps: float = EPS

    @property
    def hardness(self) -> float:
        """−log2 of the mean share of easy starts; infinite if no start was easy."""
        share = float(self.easy_starts.mean())
        return -math.log2(share) if share else math.inf

    def predicted_recall(self, runs: int) -> float:
        """Return mean over images of 1 − (1 − p_i)^runs: what runs find that keep to the basin they start in."""
        return float((1 - (1 - self.easy_starts) ** runs).mean())

    def in_cap(self, points: Tensor) -> Tensor:
        """Return which points (n, 1, 8, 8), one per image in order, lie in the image's planted cap, bool (n,)."""
        network = self.network
        d = points.double().flatten(1) - network.images.double()
        return (network.planted.double() * d).sum(1) + network.planted_offsets.double() > 1


@dataclass(frozen=True, slots=True)
class Recall:
    """What an attack found of a planted truth.

    Attributes:
        found: images broken, as the judge of all attacks sees it with the float64 network, bool (n,).
        refused: images with a misclassified point outside the ball, bool (n,).
        in_cap: whether the proposed point lies in the planted cap, bool (n,); true wherever `found` is, by proof.
    """

    found: Tensor
    refused: Tensor
    in_cap: Tensor

    @property
    def share(self) -> float:
        """Share of the planted truth that was found."""
        return float(self.found.double().mean())


class _Exact(nn.Module):
    """A network evaluated in float64."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x.double())


def build(level: Level, *, n: int = 200, seed: int = 0, draws: int = 200) -> PlantedTruth:
    """Build a network with one planted adversarial example per image, and prove that there are no others.

    Args:
        level: how well the examples are hidden.
        n: images, all with disjoint balls; up to about 400.
        seed: of images, directions and onsets; use ones that the attack's author does not know.
        draws: random starts per image from which the hardness is measured.

    Returns:
        The network, its images and labels, one adversarial example per image, the proof and the measured hardness.

    Raises:
        ValueError: too few images have disjoint balls, or the proof does not hold for this level.
    """
    rng = np.random.default_rng(seed)
    x, y = _separated_digits(n, rng)
    tensors, planted = draw_network(level, x, y, rng)
    network = MaxoutNetwork({k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}).eval()
    images = network.images.view(n, 1, 8, 8)
    points = planted.float().view(n, 1, 8, 8)
    proof = prove(network, y, points)
    if not proof.holds:
        raise ValueError(f"planted truth: expected a proof that only the caps are adversarial, got {proof}.")
    easy, easy_class = _easy_starts(network, images, draws, rng)
    exact = _Exact(network).eval()
    return PlantedTruth(level, network, exact, images.clone(), y, points, proof, easy, easy_class)


def recall(attack: Callable[..., Tensor], truth: PlantedTruth, *, seed: int = 0) -> Recall:
    """Run an attack on a planted truth and count what it found.

    Args:
        attack: `attack(model, x, y, *, eps, norm, seed) -> x_adv`, all images at once.
        truth: the network and its images.
        seed: of the attack.

    Returns:
        Which images it broke, judged by the float64 network.
    """
    proposed = attack(truth.network, truth.x, truth.y, eps=truth.eps, norm="l2", seed=seed)
    judged = judge(truth.exact, truth.x, truth.y, proposed, eps=truth.eps, norm="l2")
    return Recall(judged.broken, judged.refused, truth.in_cap(judged.x_adv))


def _separated_digits(n: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return n of scikit-learn's digits with disjoint balls, chosen greedily in a random order: (n, 64) and labels.

    Raises:
        ValueError: there are not so many.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = GREY[0] + (GREY[1] - GREY[0]) * bunch.data / 16
    chosen: list[int] = []
    for candidate in rng.permutation(len(grey)):
        distances = np.linalg.norm(grey[chosen] - grey[candidate], axis=1)
        if len(chosen) < n and (distances > 2 * EPS * SEPARATION).all():
            chosen.append(int(candidate))
    if len(chosen) < n:
        raise ValueError(f"planted truth: expected {n} digits with disjoint balls, got {len(chosen)}. Use a smaller n.")
    return torch.tensor(grey[chosen]), torch.tensor(bunch.target[chosen])


@torch.no_grad()
def _easy_starts(network: MaxoutNetwork, images: Tensor, draws: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return the shares (n,) of uniform starts at which the planted piece leads all classes, and its own class."""
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    n, size = len(images), images[0].numel()
    leads, leads_class = torch.zeros(n), torch.zeros(n)
    wrong = network.decoy_offsets.amax(2) < 1
    for _ in range(draws):
        direction = torch.randn(n, size, generator=generator)
        radius = EPS * torch.rand(n, 1, generator=generator) ** (1 / size)
        start = images.flatten(1) + radius * direction / direction.norm(dim=1, keepdim=True)
        decoys, planted, _ = network.pieces(start.clamp(0, 1))
        leads += planted > torch.where(wrong, decoys, -torch.inf).amax(1)
        leads_class += planted > torch.where(network.planted_class, decoys, -torch.inf).amax(1)
    return leads / draws, leads_class / draws
