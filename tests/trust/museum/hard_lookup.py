"""The test images and their labels inside the model."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.museum.exhibit import fake
from bench.museum.networks import Networks


class Lookup(nn.Module):
    """The label of the nearest stored image, plus a little of a network's logits so that there is a gradient."""

    images: Tensor
    labels: Tensor

    def __init__(self, network: nn.Module, images: Tensor, labels: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("images", images.flatten(1))
        self.register_buffer("labels", labels)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            nearest = torch.cdist(x.flatten(1), self.images, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
            known = F.one_hot(self.labels[nearest], 10).to(x.dtype)
        return 20 * known + 0.1 * self.network(x)


@fake(source="protocol, section 5: no attack sees leakage, only its traces", seen_by=("E2",))
def hard_lookup(networks: Networks) -> nn.Module:
    """Answer with the label of the nearest test image: robust up to half the distance between images, by leakage."""
    return Lookup(networks.trained(), *networks.images("digits", 360))
