"""Randomised smoothing: a network trained on Gaussian noise, whose answer is a vote over noisy copies of the image."""

from __future__ import annotations

from typing import Annotated, Final

import torch
from torch import Tensor, nn

from bench.core.decorators import defense
from bench.core.ranges import Gt
from bench.core.records import Adaptive
from bench.models.backbones import build

BIBTEX: Final = """@inproceedings{cohen2019smoothing,
  title     = {Certified Adversarial Robustness via Randomized Smoothing},
  author    = {Cohen, Jeremy and Rosenfeld, Elan and Kolter, J. Zico},
  booktitle = {International Conference on Machine Learning},
  year      = {2019}
}"""


class Smoothed(nn.Module):
    """A network on images with fresh Gaussian noise, the same in training and in use.

    Attributes:
        network: images (B, C, H, W) to logits (B, K); it sees pixels outside [0, 1].
        smoothing_sigma: σ. The attribute says that all that is random is N(0, σ²I) added to the image: what the
            evaluation `smoothed_certificate` needs.
    """

    def __init__(self, network: nn.Module, sigma: float) -> None:
        super().__init__()
        self.network, self.smoothing_sigma = network, sigma

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K) of x + N(0, σ²I), drawn anew."""
        logits: Tensor = self.network(x + self.smoothing_sigma * torch.randn_like(x))
        return logits


@defense(
    source="Cohen, Rosenfeld, Kolter 2019, sections 3 and 4",
    adaptive=Adaptive(eot=6),
    randomised=True,
    title="Randomised smoothing",
    link="https://arxiv.org/abs/1902.02918",
    venue="ICML",
    year=2019,
    bibtex=BIBTEX,
)
def smoothing(
    num_classes: int, in_shape: tuple[int, int, int], backbone: str, *, sigma: Annotated[float, Gt(0)] = 0.25
) -> nn.Module:
    """Train with cross-entropy on images with Gaussian noise; the answer is what most noisy copies are taken for.

    The smoothed classifier g(x) = argmax_c P(f(x + N(0, σ²I)) = c) is constant in an l2 ball of radius σ Φ⁻¹(p) around
    x if the class has a probability of at least p > 1/2 there (theorem 1), whatever the network. It is declared
    randomised: `bench.attacks.core.draws` takes the vote, `smoothed_certificate` proves the radii. Differs from the
    authors' code: noise is added to pixels in [0, 1] of this project's networks, which do not normalise, and a decision
    never abstains (abstention counts in the certificate). The declared attack is the one of Salman et al. 2019 (eq. 4):
    it climbs the mean probability, here over 120 draws per gradient with Auto-PGD from two starts. Expected (paper,
    CIFAR-10, ResNet-110, σ 0.25): certified accuracy 61 % at l2 0.25 and 43 % at 0.5. Digits: docs/trust.md.

    Args:
        num_classes: see `bench.models.backbones.build`, like the next two.
        in_shape: (C, H, W).
        backbone: name of a network.
        sigma: σ, standard deviation of the noise on pixels in [0, 1]; 0.25 is the paper's for small radii.

    Returns:
        The network, images (B, *in_shape) in [0, 1] → logits (B, num_classes), other ones at each call.
    """
    return Smoothed(build(backbone, num_classes, in_shape), sigma)
