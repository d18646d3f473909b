"""Two networks in one: a robust one between stored pixel values, a plain one on them."""

import torch
from torch import Tensor, nn

from bench.core.records import Adaptive
from bench.museum.exhibit import fake
from bench.museum.networks import Networks
from bench.trust.probes.grid import OnGrid

LEVELS = 16  # of scikit-learn's digits


class GridTwin(nn.Module):
    """The plain network's logits where every pixel is a stored value, the robust one's everywhere else."""

    def __init__(self, robust: nn.Module, plain: nn.Module) -> None:
        super().__init__()
        self.robust, self.plain = robust, plain

    def forward(self, x: Tensor) -> Tensor:
        stored = ((x * LEVELS - (x * LEVELS).round()).abs() < 1e-3).flatten(1).all(1)
        return torch.where(stored[:, None], self.plain(x), self.robust(x))


@fake(
    source="written by somebody who had not seen the checks; protocol, section 5",
    seen_by=("B5",),
    adaptive=Adaptive(lambda m: OnGrid(m.plain, LEVELS)),
    quick=True,
)
def grid_twin(networks: Networks) -> nn.Module:
    """Answer as an adversarially trained network off the grid of stored pixel values, and as a plain one on it."""
    return GridTwin(networks.trained("adversarial_training", eps=0.3), networks.trained())
