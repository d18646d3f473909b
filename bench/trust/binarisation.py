"""The binarisation test: does an attack find an adversarial example that is known to be there (check T1)?

Zimmermann, Brendel, Tramèr, Carlini 2022, "Increasing Confidence in Adversarial Robustness Evaluations", section 4.
For one image x the last linear layer is replaced by a head of two classes on the same features, fitted to tell points
inside the ball (x among them) from one point on its surface. That point is an adversarial example of the new network,
so an attack that finds none has failed, whatever the defense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, randomness
from bench.attacks.core.randomness import Stream
from bench.core.torch_state import frozen_eval
from bench.measuring.judge import TOLERANCE, judge
from bench.trust.binary_heads import Heads, fit_heads
from bench.trust.readout import Readout, find_readout

INNER_POINTS: Final = 100  # per image, the image itself among them
RANDOM_DRAWS: Final = 100  # of the attacker who guesses
INNER_RADIUS: Final = 0.95  # of eps, the paper's
CLOSENESS: Final = 0.999  # the paper's code: the zero of the score, from the highest inner score to the outer point's
ROUNDS: Final = 10  # outer points tried per image until one can be separated
PROBE_IMAGES: Final = 4  # on which the last layer is looked for


def binarisation(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str, seed: int, attack: Callable[..., Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Plant an adversarial example per image in a copy of the network's last layer, and attack.

    What differs from the released code: the random draws belong to the image; points lie in the box at the distance
    they are drawn for, at radii that fill the ball's volume evenly; fitting stops when the points are separated; an
    outer point that cannot be separated is drawn anew, ten times at most, and the image is left out then; heads have
    the scale of the network's own margin at x.

    Args:
        model: network, images to logits (B, K).
        x: images (B, C, H, W) in [0, 1].
        y: their labels (B,); not used, the two classes are new ones.
        eps: radius of the ball.
        norm: "l2" or "linf".
        seed: of points and attack.
        attack: `attack(model, x, y, *, eps, norm, seed) -> x_adv`, the one that the evaluation relies on, with the
            same settings.

    Returns:
        Three flags per image, bool (B,): the attack found an adversarial example; one of 100 random points on the
        ball's surface was one; and whether the image counts: an example was planted and is adversarial. A network
        without a last linear layer has none that counts.
    """
    nothing = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    with frozen_eval(model):
        readout = find_readout(model, x[:PROBE_IMAGES], INNER_POINTS) if len(x) and eps > 0 else None
        if readout is None:
            return nothing, nothing.clone(), nothing.clone()
        keys = randomness.example_keys(x, seed)
        heads, planted = _plant(readout, x, keys, eps, norm)
        guessed = nothing.clone()
        for draw in range(RANDOM_DRAWS):
            point = _surface_point(x, keys, Stream.BINARISATION_RANDOM + draw, eps, norm)
            guessed |= heads.scores(readout.run(point)[0]) > 0
        found, ok = nothing.clone(), heads.separated.clone()
        for rows in _disjoint(x, ok.nonzero()[:, 0], eps, norm):
            clean, zero = x[rows], torch.zeros(len(rows), dtype=torch.long, device=x.device)
            network = _Routed(readout.network, clean)
            with readout.replaced(_head_function(heads, rows, network, y_width=readout.run(clean[:1])[1].shape[1])):
                ok[rows] = ~judge(network, clean, zero, clean, eps=eps, norm=norm).broken
                ok[rows] &= judge(network, clean, zero, planted[rows], eps=eps, norm=norm).broken
                found[rows] = judge(
                    network,
                    clean,
                    zero,
                    attack(network, clean, zero, eps=eps, norm=norm, seed=seed),
                    eps=eps,
                    norm=norm,
                ).broken
    return found & ok, guessed & ok, ok


class _Routed(nn.Module):
    """Two logits per point, by the head of the nearest image: exact inside balls that are disjoint.

    Attributes:
        images: the heads' images, (n, C·H·W) float32.
        nearest: the images that the points of the last call were nearest to, (B,).
    """

    images: Tensor

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("images", images.flatten(1))
        self.nearest = torch.arange(len(images), device=images.device)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 2): inner, outer."""
        with torch.no_grad():
            self.nearest = (2 * x.flatten(1) @ self.images.T - self.images.square().sum(1)).argmax(1)
        return self.network(x)[:, :2]


def _head_function(heads: Heads, rows: Tensor, network: _Routed, y_width: int) -> Callable[[Tensor], Tensor]:
    """Return what replaces the last layer: (−s/2, s/2) of the nearest image's score s, other classes at the smaller."""
    weight, bias = heads.weight[rows], heads.bias[rows]

    def scores(features: Tensor) -> Tensor:
        w, b = weight[network.nearest], bias[network.nearest]
        half = ((features.double() * w).sum(1) + b).to(features.dtype)[:, None] / 2
        return torch.cat([-half, half, (-half.detach().abs()).expand(-1, y_width - 2)], 1)

    return scores


def _plant(readout: Readout, x: Tensor, keys: Tensor, eps: float, norm: str) -> tuple[Heads, Tensor]:
    """Fit a head per image and return them with the planted points (B, C, H, W)."""
    radii = [INNER_RADIUS * eps * ((j + 0.5) / INNER_POINTS) ** (1 / x[0].numel()) for j in range(INNER_POINTS - 1)]
    clean, output = readout.run(x)
    features = [clean] + [
        readout.run(_surface_point(x, keys, Stream.BINARISATION_INNER + j, radius, norm))[0]
        for j, radius in enumerate(radii)
    ]
    inner, planted = torch.stack(features, 1), x.clone()
    weight = torch.zeros_like(clean, dtype=torch.float64)
    bias, separated = weight.new_zeros(len(x)), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for attempt in range(ROUNDS):
        todo = (~separated).nonzero()[:, 0]
        if not len(todo):
            break
        planted[todo] = _surface_point(x[todo], keys[todo], Stream.BINARISATION_BOUNDARY + attempt, eps, norm)
        tried = fit_heads(inner[todo], readout.run(planted[todo])[0], CLOSENESS)
        weight[todo], bias[todo], separated[todo] = tried.weight, tried.bias, tried.separated
    best = output.double().topk(2, dim=1).values
    unscaled = Heads(weight, bias, separated).scores(clean).abs()
    factor = (best[:, 0] - best[:, 1]).clamp_min(1e-6) / unscaled.clamp_min(torch.finfo(torch.float64).tiny)
    return Heads(weight * factor[:, None], bias * factor, separated), planted


def _surface_point(x: Tensor, keys: Tensor, stream: int, radius: float, norm: str) -> Tensor:
    """Return a point per image at a distance, inside the box: in a random direction, or a cube's random corner."""
    direction = randomness.normal(keys, stream, tuple(x.shape[1:]), x.dtype)
    return balls.farthest(x, direction, radius, norm)


def _disjoint(x: Tensor, rows: Tensor, eps: float, norm: str) -> Iterator[Tensor]:
    """Yield the images `rows` in groups in which each point of a ball is nearest to the ball's own image.

    For d between two images and any δ of the ball, ‖d + δ‖₂ > ‖δ‖₂ if ‖d‖₂² > 2·eps·‖d‖, the last norm the dual one.
    """
    flat = x[rows].flatten(1).double()
    dual = torch.cdist(flat, flat, p=2.0 if norm == "l2" else 1.0)
    near = torch.cdist(flat, flat).square() <= 2 * eps * (1 + 2 * TOLERANCE) * dual
    groups: list[list[int]] = []
    for i, meets in enumerate(near.tolist()):
        free = next((group for group in groups if not any(meets[j] for j in group)), None)
        if free is None:
            groups.append([i])
        else:
            free.append(i)
    for group in groups:
        yield rows[torch.tensor(group, device=rows.device)]
