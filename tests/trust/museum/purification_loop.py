"""A loop of gradient steps inside forward() that pulls the image back to the subspace of the training images."""

import torch
from torch import Tensor, nn

from bench.museum.exhibit import fake
from bench.museum.networks import Networks

COMPONENTS, STEPS, LENGTH = 24, 4, 0.2


class Purified(nn.Module):
    """A network on images moved down their distance to a subspace; the moves pass no gradient."""

    mean: Tensor
    basis: Tensor

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.network = network
        flat = images.flatten(1)
        self.register_buffer("mean", flat.mean(0))
        self.register_buffer("basis", torch.linalg.svd(flat - flat.mean(0), full_matrices=False).Vh[:COMPONENTS])

    def distance(self, x: Tensor) -> Tensor:
        """Return the squared distance of x (B, 64) to the subspace, (B,)."""
        centred = x - self.mean
        return (centred - centred @ self.basis.T @ self.basis).square().sum(1)

    def forward(self, x: Tensor) -> Tensor:
        shift = torch.zeros_like(x)
        for _ in range(STEPS):
            with torch.enable_grad():
                leaf = (x + shift).detach().requires_grad_()
                (gradient,) = torch.autograd.grad(self.distance(leaf.flatten(1)).sum(), leaf)
            shift = shift - LENGTH * gradient
        return self.network((x + shift).clamp(0, 1))


@fake(source="Croce et al. 2022, on adaptive test-time defenses", seen_by=("D1",))
def purification_loop(networks: Networks) -> nn.Module:
    """Take four gradient steps towards the training images' subspace inside forward(), detached from the attack."""
    return Purified(networks.trained(), networks.train_images)
