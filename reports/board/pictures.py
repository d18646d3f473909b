"""Adversarial examples as the page shows them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class StoredImages:
    """Some adversarial examples of one run, those that the smallest changes break first.

    Attributes:
        cell: the evaluation that stored them.
        index: (m,), of the images.
        clean: (m, C, H, W) in [0, 1].
        adversarial: likewise, after the attack.
        distance: (m,), size of the attack's perturbation in the norm of the threat.
        breaks: (m,), size of the smallest change that is known to break the image, at most `distance`.
        bisected: whether such a change was searched for on the way to the attack's point.
        prediction: (m,), the class that the network then gives; None where it was not stored.
    """

    cell: str
    index: np.ndarray
    clean: np.ndarray
    adversarial: np.ndarray
    distance: np.ndarray
    breaks: np.ndarray
    bisected: bool = False
    prediction: np.ndarray | None = None
