"""Maxout with decoys: networks of linear layers and maxima with one known adversarial region per image, and the proof.

Around each of n images lies a ball of radius eps; the balls are disjoint. A router (nearest image, one linear layer and
an argmax) gives d = x − x_i, and every wrong class has linear pieces in d:

    a(d) = h · (w·d/eps − τ) / (1 − τ),   ‖w‖ = 1,       z_y = 0,   z_c = S · (max over the pieces of c of a(d) − 1)

A wrong class is predicted where one of its pieces exceeds 1. Decoys have h = 0.8, hence a ≤ 0.8 in the whole ball: they
are local maxima of the loss, none of which is adversarial. The planted piece of one random class has
h = (1 − τ)/(edge − τ) and exceeds 1 exactly on the spherical cap w·d > edge·eps. So every image has an adversarial
example, and all of them lie in that cap.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.measuring.judge import TOLERANCE

EPS: Final = 0.5  # l2; up to 400 digits have disjoint balls of this radius
DECOY_HEIGHT: Final = 0.8
EDGE: Final = 0.8  # the cap begins at this share of the radius
PLANTED_AT: Final = 0.95  # share of the radius at which the planted example lies
JITTER: Final = 0.1  # half-width of the spread of every onset τ: equal ones would tie at the image itself
SCALE: Final = 8.0  # S
NEVER: Final = -1e4  # a piece that is never the largest; a constant nearby would hide the planted piece's gradient


@dataclass(frozen=True, slots=True)
class Level:
    """How well the planted examples are hidden.

    Attributes:
        tau: onset of the planted piece, −0.5 (easy) … 0.2 (hard), jittered per image.
        own: whether the planted class has decoys too; without them a targeted attack has an easy task.
        per_class: decoys per wrong class.
    """

    tau: float
    own: bool = True
    per_class: int = 1


class MaxoutNetwork(nn.Module):
    """Logits (B, 10) of x (B, 1, 8, 8) in [0, 1]: nearest image, then the largest linear piece of each class.

    Attributes:
        images: the n clean images, (n, 64).
        decoys: slopes of the decoys, (n, K, m, 64); zero for the true class.
        decoy_offsets: their values at the image, (n, K, m); 1 for the true class, whose logit is 0 everywhere.
        planted: slopes of the planted pieces, (n, 64).
        planted_offsets: their values at the image, (n,).
        planted_class: their classes, one-hot, bool (n, K).
    """

    images: Tensor
    decoys: Tensor
    decoy_offsets: Tensor
    planted: Tensor
    planted_offsets: Tensor
    planted_class: Tensor

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        """Store the tensors that the attributes name, as buffers."""
        super().__init__()
        for name, value in tensors.items():
            self.register_buffer(name, value)

    def pieces(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the largest decoy per class (B, K), the planted piece (B,) and the nearest images' numbers (B,)."""
        flat = x.flatten(1)
        nearest = (2 * flat @ self.images.T - self.images.square().sum(1)).argmax(1)
        d = flat - self.images[nearest]
        decoys = (self.decoys[nearest].flatten(1, 2) @ d[:, :, None]).view(len(x), *self.decoys.shape[1:3])
        planted = (self.planted[nearest] * d).sum(1) + self.planted_offsets[nearest]
        return (decoys + self.decoy_offsets[nearest]).amax(2), planted, nearest

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K)."""
        decoys, planted, nearest = self.pieces(x)
        best = torch.maximum(decoys, planted[:, None])
        return SCALE * (torch.where(self.planted_class[nearest], best, decoys) - 1)


@dataclass(frozen=True, slots=True)
class Proof:
    """The numbers from which it follows that all adversarial examples lie in the planted caps; exact in float64.

    Attributes:
        separation: smallest distance between two images over 2·eps; above 1, the router is right in every ball.
        decoy_ceiling: largest value of any decoy in its ball (judge's tolerance included); below 1, none ever wins.
        planted_margin: smallest margin of a planted example, a − 1; above 0, each is adversarial.
    """

    separation: float
    decoy_ceiling: float
    planted_margin: float

    @property
    def holds(self) -> bool:
        """Whether the three inequalities hold."""
        return self.separation > 1 + TOLERANCE and self.decoy_ceiling < 1 and self.planted_margin > 0


def _directions(x: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return random unit directions (n, count, 64) such that x + 0.95·eps·w lies in the box [0, 1]."""
    w = rng.standard_normal((len(x), count, x.shape[1]))
    reach, centre = PLANTED_AT * EPS, x[:, None]
    for _ in range(50):
        w /= np.linalg.norm(w, axis=2, keepdims=True)
        w = np.clip(centre + reach * w, 0, 1) - centre
    return w / np.linalg.norm(w, axis=2, keepdims=True)


def _linear(w: np.ndarray, height: np.ndarray, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return slope and offset of a(d) = height·(w·d/eps − tau)/(1 − tau); w (…, 64), the others (…)."""
    return (height / (EPS * (1 - tau)))[..., None] * w, -height * tau / (1 - tau)


def draw_network(level: Level, x: Tensor, y: Tensor, rng: np.random.Generator) -> tuple[dict[str, Tensor], Tensor]:
    """Draw the pieces of a network around given images.

    Args:
        level: how well the planted examples are hidden.
        x: images with disjoint balls, (n, 64) float64.
        y: labels, (n,).
        rng: of directions, onsets and planted classes.

    Returns:
        The network's tensors in float64 by name, and one planted example per image, (n, 64).
    """
    n, classes, m = len(x), 10, level.per_class
    labels, each = y.numpy(), np.arange(n)
    target = (labels + rng.integers(1, classes, n)) % classes
    w = _directions(x.numpy(), classes * m + 1, rng)
    shape = (n, classes, m)
    decoys, offsets = _linear(
        w[:, 1:].reshape(*shape, -1), np.full(shape, DECOY_HEIGHT), rng.uniform(-JITTER, JITTER, shape)
    )
    tau = level.tau + rng.uniform(-JITTER, JITTER, n)
    slope, offset = _linear(w[:, 0], (1 - tau) / (EDGE - tau), tau)
    decoys[each, labels], offsets[each, labels] = 0, 1
    if not level.own:
        decoys[each, target], offsets[each, target] = 0, NEVER
    tensors = {
        "images": x,
        "decoys": torch.tensor(decoys),
        "decoy_offsets": torch.tensor(offsets),
        "planted": torch.tensor(slope),
        "planted_offsets": torch.tensor(offset),
        "planted_class": F.one_hot(torch.tensor(target), classes).bool(),
    }
    return tensors, (x + PLANTED_AT * EPS * torch.tensor(w[:, 0])).clamp(0, 1)


def prove(network: MaxoutNetwork, y: Tensor, planted: Tensor) -> Proof:
    """Evaluate the three inequalities of `Proof` on the numbers of a float32 network, in float64.

    Args:
        network: the network that attacks see.
        y: labels of its images, (n,).
        planted: one planted example per image, (n, 1, 8, 8); it must lie in the ball.

    Returns:
        The proof's numbers, whether or not it holds.
    """
    images, n = network.images.double(), len(y)
    separation = F.pdist(images).min() / (2 * EPS) if n > 1 else torch.tensor(math.inf)
    slopes, offsets = network.decoys.double(), network.decoy_offsets.double()
    ceilings = slopes.norm(dim=3) * EPS * (1 + TOLERANCE) + offsets
    wrong = torch.arange(slopes.shape[1])[None, :] != y[:, None]
    d = planted.double().flatten(1) - images
    inside = d.norm(dim=1) <= EPS * (1 + TOLERANCE)
    margin = (network.planted.double() * d).sum(1) + network.planted_offsets.double() - 1
    margin = torch.where(inside, margin, -torch.inf)
    clean = network.planted_offsets.double().max()  # the image itself must be classified correctly
    return Proof(float(separation), float(torch.maximum(ceilings[wrong].max(), clean)), float(margin.min()))
