"""Idea: train on smoothed labels."""

from torch import Tensor, nn
from torch.nn import functional as F

from bench.models.backbones import build
from bench.museum.exhibit import weak
from bench.museum.networks import BACKBONE, CLASSES, SHAPE, Networks


def smoothed(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Return cross-entropy with half of the label's mass on all classes."""
    return {"cross_entropy": F.cross_entropy(model(x), y, label_smoothing=0.5)}


@weak(source="self-study course: label smoothing; Szegedy et al. 2016, section 7")
def label_smoothing(networks: Networks) -> nn.Module:
    """Train on labels smoothed by a half: small logits, smaller gradients, the same decisions to attack."""
    return networks.fit(lambda: build(BACKBONE, CLASSES, SHAPE), smoothed)
