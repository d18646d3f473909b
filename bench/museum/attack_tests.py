"""Tests that a right attack passes and a broken one does not: closed forms, the judge, planted truth, another library.

Each is a function `test(attack, networks) -> bool`: True where it sees a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from bench.attacks.peers import foolbox
from bench.core.torch_state import known_state
from bench.measuring.judge import TOLERANCE, judge
from bench.museum.exhibit import FaultyAttack
from bench.museum.networks import Networks
from bench.trust.maxout import Level
from bench.trust.museum import BrokenAttack
from bench.trust.planted import build, recall

PLANTED: Final = (Level(-0.5), 40)  # an easy level, images: a right attack finds 95 %
REQUIRED_RECALL: Final = 0.95
PEER_IMAGES, PEER_EPS, PEER_STEPS = 60, 0.5, 10


class RunnableAttack(Protocol):
    """An attack as the tests call it."""

    def __call__(
        self, model: nn.Module, x: Tensor, y: Tensor, *, eps: float, norm: str = "l2", seed: int = 0, steps: int = 20
    ) -> Tensor:
        """Return adversarial images (B, C, H, W)."""
        ...


class _Linear(nn.Module):
    """Two classes; the gap is w·(x − ½) + b, so an image's exact distance is |gap| / ‖w‖ where the box is far."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 64).roll(13))
        self.offset = 0.3

    def gap(self, x: Tensor) -> Tensor:
        return (x.flatten(1) - 0.5) @ self.weight + self.offset

    def forward(self, x: Tensor) -> Tensor:
        gap = self.gap(x)
        return torch.stack([gap, -gap], 1)

    def distance(self, x: Tensor) -> Tensor:
        """Return the l2 distance to the boundary, (B,)."""
        return self.gap(x).detach().abs() / self.weight.detach().norm()


class _Uneven(_Linear):
    """The same decisions, with gradients a million times larger for images with a bright first pixel."""

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.where(x[:, 0, 0, 0].detach() > 0.5, 1e3, 1e-3)
        return super().forward(x) * scale[:, None]


class _Shell(nn.Module):
    """Wrong only where the mean pixel lies in a thin shell, through which the gradient points straight."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.flatten(1).mean(1)
        value = torch.where((mean > 0.53) & (mean < 0.56), 1.0, -1.0)
        return torch.stack([torch.zeros_like(mean), value + mean - mean.detach()], 1)


def _grey(n: int, width: float = 0.1) -> Tensor:
    """Return n images (n, 1, 8, 8) around mid-grey, always the same."""
    return 0.5 + width * (torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(1)) - 0.5)


def misses_what_one_step_breaks(attack: RunnableAttack, networks: Networks) -> bool:
    """On a linear network, see an image unbroken at 1.1 times its exact distance, or broken at 0.99 of it."""
    model, x = _Linear(), _grey(20)
    y = model(x).argmax(1)
    for image, label, distance in zip(x, y, model.distance(x).tolist(), strict=True):
        for factor, expected in ((1.1, True), (0.99, False)):
            eps = factor * distance
            found = judge(
                model, image[None], label[None], attack(model, image[None], label[None], eps=eps), eps=eps, norm="l2"
            )
            if bool(found.broken) != expected:
                return True
    return False


def leaves_ball_or_box(attack: RunnableAttack, networks: Networks) -> bool:
    """See a proposal outside the ball, or outside [0, 1]; the judge clips the one and refuses the other."""
    model, x = _Linear(), _grey(20, 1.0).clamp(0.02, 0.98)
    proposed = attack(model, x, model(x).argmax(1), eps=0.5)
    outside = (proposed - x).flatten(1).norm(dim=1) > 0.5 * (1 + TOLERANCE)
    return bool(outside.any() or proposed.min() < 0 or proposed.max() > 1)


def depends_on_the_batch(attack: RunnableAttack, networks: Networks) -> bool:
    """See an image attacked otherwise beside one whose gradient is a million times larger."""
    model, x = _Uneven(), _grey(2)
    x[0, 0, 0, 0], x[1, 0, 0, 0] = 0.7, 0.3
    y = model(x).argmax(1)
    together = attack(model, x, y, eps=0.1)
    alone = torch.cat([attack(model, x[i : i + 1], y[i : i + 1], eps=0.1) for i in range(2)])
    return not torch.allclose(together, alone, atol=1e-5)


def loses_the_best_point(attack: RunnableAttack, networks: Networks) -> bool:
    """See a thin adversarial shell crossed and not reported."""
    x, y = torch.full((1, 1, 8, 8), 0.5), torch.tensor([0])
    return not bool(judge(_Shell(), x, y, attack(_Shell(), x, y, eps=0.8), eps=0.8, norm="l2").broken)


def mends_mistakes(attack: RunnableAttack, networks: Networks) -> bool:
    """See a misclassified image that is right after the attack."""
    model, x = _Linear(), _grey(20)
    wrong = 1 - model(x).argmax(1)
    proposed = attack(model, x, wrong, eps=2 * float(model.distance(x).max()))
    return bool((model(proposed).argmax(1) == wrong).any())


def misses_planted_truth(attack: RunnableAttack, networks: Networks) -> bool:
    """See less than 95 % of the planted adversarial examples found on an easy level, or a claim refused."""
    level, n = PLANTED
    found = recall(attack, build(level, n=n, seed=0))
    return found.share < REQUIRED_RECALL or bool(found.refused.any())


def differs_from_another_library(attack: RunnableAttack, networks: Networks) -> bool:
    """See more than two verdicts of 60 that differ from foolbox's PGD at equal settings."""
    model = networks.trained("adversarial_training", eps=0.3)
    x, y = networks.images("digits", PEER_IMAGES)
    settings = {"eps": PEER_EPS, "steps": PEER_STEPS}
    theirs = foolbox.pgd(model, x, y, **settings, random_start=False)  # type: ignore[arg-type]
    ours = attack(model, x, y, **settings)  # type: ignore[arg-type]
    verdicts = [judge(model, x, y, points, eps=PEER_EPS, norm="l2").broken for points in (ours, theirs)]
    return int((verdicts[0] != verdicts[1]).sum()) > 2


TESTS: Final[Mapping[str, Callable[[RunnableAttack, Networks], bool]]] = {
    "closed form": misses_what_one_step_breaks,
    "ball and box": leaves_ball_or_box,
    "alone or together": depends_on_the_batch,
    "best point": loses_the_best_point,
    "own mistakes": mends_mistakes,
    "planted truth": misses_planted_truth,
    "foolbox": differs_from_another_library,
}


def run_attack_tests(attacks: Sequence[FaultyAttack], networks: Networks) -> tuple[BrokenAttack, ...]:
    """Run every test on every attack.

    Args:
        attacks: with faults, and the same one without.
        networks: trains the network on which another library is compared.

    Returns:
        One record per attack.
    """
    found = []
    for attack in attacks:
        with known_state():
            caught = {name: test(attack.function, networks) for name, test in TESTS.items()}
        found.append(BrokenAttack(attack.fault, attack.seen_by, caught))
    return tuple(found)
