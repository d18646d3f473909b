"""CIFAR-10 networks that other people trained: four small ones of one architecture, and AutoAttack's ResNet-18.

Input: pixels in [0, 1]. Each function is what `--model nets.py:FUNCTION` calls; the weights come from `--weights`.
"""

import torch
from torch import nn
from torch.nn import functional as F


class Net(nn.Module):
    """Two convolutions of stride 2 and two linear layers, after the normalisation of their training."""

    def __init__(self, channels: int, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, channels, 4, stride=2, padding=1)
        self.conv2 = nn.Conv2d(channels, 2 * channels, 4, stride=2, padding=1)
        self.fc1 = nn.Linear(2 * channels * 64, 100)
        self.fc2 = nn.Linear(100, 10)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits (B, 10) of images (B, 3, 32, 32) in [0, 1]."""
        x = F.relu(self.conv1((x - self.mean) / self.std))
        x = F.relu(self.conv2(x)).flatten(1)
        return self.fc2(F.relu(self.fc1(x)))


def wong2018_l2_36() -> nn.Module:
    """Certified training for the l2 ball of radius 36/255 (Wong et al. 2018), first network of a cascade of two."""
    return Net(16, [0.485, 0.456, 0.406], [0.225, 0.225, 0.225])


def oval_base() -> nn.Module:
    """Certified training for l∞ (Wong and Kolter 2018), from a verification benchmark."""
    return Net(8, [0.485, 0.456, 0.406], [0.225, 0.225, 0.225])


def sdp_adv() -> nn.Module:
    """Adversarial training with PGD for l∞, from a verification benchmark."""
    return Net(16, [0.4914, 0.4824, 0.4467], [0.2009, 0.2009, 0.2009])


def sdp_mix() -> nn.Module:
    """Mixed natural and robust training, from a verification benchmark."""
    return sdp_adv()


def autoattack_resnet() -> nn.Module:
    """ResNet-18 without normalisation, plainly trained: the example that pyautoattack ships beside `model_test.pt`."""
    from pyautoattack.examples.resnet import ResNet18

    return ResNet18()
