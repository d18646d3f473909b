"""The corruptions by name, and what severity 1 to 5 means: a scale of bench's own.

It was set by hand so that the mildest is hardly seen and the strongest leaves the content recognisable, with lengths as
shares of the image's side. It is not the scale of Hendrycks and Dietterich 2019: no number compares with CIFAR-10-C,
CIFAR-100-C or ImageNet-C.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from torch import Tensor

from bench.attacks.core.randomness import example_keys
from bench.core.errors import UsageError
from bench.measuring.corruptions.blur import defocus_blur, motion_blur
from bench.measuring.corruptions.coding import jpeg, pixelate
from bench.measuring.corruptions.light import brightness, contrast, haze
from bench.measuring.corruptions.noise import gaussian_noise, impulse_noise, shot_noise

Name: TypeAlias = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "motion_blur",
    "brightness",
    "contrast",
    "haze",
    "pixelate",
    "jpeg",
]
SEVERITIES: Final = (1, 2, 3, 4, 5)
SMALLEST_SIDE: Final = 4  # pixels; the blurs of a smaller image are none


@dataclass(frozen=True, slots=True)
class Corruption:
    """One corruption.

    Attributes:
        function: `f(x (B, C, H, W) in [0, 1], keys (B,), strength) -> (B, C, H, W)`, not yet clipped.
        strengths: of severity 1 to 5.
        words: what a copy has, and what the strength is.
    """

    function: Callable[[Tensor, Tensor, float], Tensor]
    strengths: tuple[float, float, float, float, float]
    words: str


CORRUPTIONS: Final[Mapping[Name, Corruption]] = {
    "gaussian_noise": Corruption(
        gaussian_noise, (0.04, 0.08, 0.12, 0.18, 0.26), "Gaussian noise, by its standard deviation in pixel units"
    ),
    "shot_noise": Corruption(
        shot_noise, (0.01, 0.02, 0.04, 0.08, 0.16), "Poisson noise, by its variance at white in squared pixel units"
    ),
    "impulse_noise": Corruption(
        impulse_noise, (0.02, 0.04, 0.08, 0.14, 0.22), "black and white pixels, by the share of pixels that are hit"
    ),
    "defocus_blur": Corruption(
        defocus_blur, (0.02, 0.035, 0.05, 0.07, 0.09), "blur by a disk, by its radius over the shorter side"
    ),
    "motion_blur": Corruption(
        motion_blur,
        (0.05, 0.08, 0.12, 0.17, 0.23),
        "blur along a line in a drawn direction, by its length over the shorter side",
    ),
    "brightness": Corruption(brightness, (0.08, 0.16, 0.24, 0.34, 0.45), "more light, by what is added to every pixel"),
    "contrast": Corruption(
        contrast, (0.2, 0.4, 0.55, 0.7, 0.82), "less contrast about the image's mean, by the share that is lost"
    ),
    "haze": Corruption(haze, (0.2, 0.35, 0.5, 0.65, 0.8), "an uneven haze of white light, by its largest density"),
    "pixelate": Corruption(
        pixelate, (0.25, 0.4, 0.5, 0.625, 0.75), "larger pixels, by the share of rows and of columns that are lost"
    ),
    "jpeg": Corruption(jpeg, (60, 40, 25, 15, 8), "JPEG, by libjpeg's quality"),
}


def corrupted(x: Tensor, name: Name, severity: int, *, seed: int) -> Tensor:
    """Return copies of images with a corruption, clipped to [0, 1].

    The draws belong to image, corruption and seed: the same at any batch size, and for all severities.

    Args:
        x: images (B, C, H, W) in [0, 1], H and W at least 4.
        name: of the corruption.
        severity: from 1 to 5.
        seed: of the draws.

    Raises:
        UsageError: an unknown severity, or images smaller than 4 × 4.
    """
    if severity not in SEVERITIES:
        raise UsageError(f"corruptions: severity: expected 1 to 5, got {severity}. Name one of the five.")
    if min(x.shape[-2:]) < SMALLEST_SIDE:
        raise UsageError(
            f"corruptions: expected images of at least {SMALLEST_SIDE}×{SMALLEST_SIDE} pixels, got "
            f"{x.shape[-2]}×{x.shape[-1]}. Leave the evaluation out."
        )
    corruption = CORRUPTIONS[name]
    return corruption.function(x, example_keys(x, seed), corruption.strengths[severity - 1]).clamp(0, 1)
