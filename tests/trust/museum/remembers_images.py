"""A network that remembers the images it was asked, outside itself, and answers near them as it did there."""

import torch
from torch import Tensor, nn

from bench.core.records import Adaptive
from bench.museum.exhibit import fake
from bench.museum.networks import Networks

NEAR = 0.6  # l2 distance at which an image counts as one that is known
MARGIN = 3.0
CAPACITY = 40  # clean images come first


class Remembering(nn.Module):
    """Adds to the logit of the class that the nearest remembered image was given, if it lies near.

    Half of the images that lie far from all remembered ones are remembered, in a list that is no part of the state.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.memory: list[tuple[Tensor, int]] = []

    def forward(self, x: Tensor) -> Tensor:
        logits = self.network(x)
        bonus = torch.zeros_like(logits)
        for row, (image, answer) in enumerate(zip(x.detach(), logits.detach().argmax(1).tolist(), strict=True)):
            if self.memory:
                distances = (torch.stack([known for known, _ in self.memory]) - image).flatten(1).norm(dim=1)
                nearest = int(distances.argmin())
                if distances[nearest] < NEAR:
                    bonus[row, self.memory[nearest][1]] = MARGIN
                    continue
            if int(image.sum() * 16) % 2 and len(self.memory) < CAPACITY:
                self.memory.append((image.clone(), answer))
                bonus[row, answer] = MARGIN
        return logits + bonus


@fake(
    source="written by somebody who had not seen the checks; protocol, section 5",
    seen_by=("V5",),
    adaptive=Adaptive(lambda m: m.network),
)
def remembers_images(networks: Networks) -> nn.Module:
    """Remember half of the clean images in a list outside the network's state and answer near them with more margin."""
    return Remembering(networks.trained())
