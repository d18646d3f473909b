"""The map of the plane against a network whose boundary is known."""

import pytest
import torch
from torch import nn

from bench.core.errors import UsageError
from bench.evaluations.boundary import boundary, decision_map


class Diagonal(nn.Module):
    """Logits (0, s·(horizontal − vertical)): the boundary is the diagonal."""

    def forward(self, x):
        z = 10 * (x[:, 0, 0, 0] - x[:, 1, 0, 0])
        return torch.stack([torch.zeros_like(z), z], 1)


def test_the_map_is_the_sigmoid_of_the_distance_to_the_diagonal():
    grid = decision_map(Diagonal(), torch.device("cpu"))["grid"]
    p = torch.tensor(grid["probability"])
    n = len(p)
    side = torch.linspace(0, 1, n)
    torch.testing.assert_close(p, torch.sigmoid(10 * (side[None, :] - side[:, None])), atol=1e-5, rtol=0)
    assert p[0, -1] > 0.99  # right end of the lowest row
    assert grid["extent"] == [0.0, 1.0, 0.0, 1.0]


def test_the_true_class_gets_its_probability():
    x = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).reshape(2, 2, 1, 1)
    p = boundary(Diagonal(), x, torch.tensor([1, 1]))["true_probability"]
    torch.testing.assert_close(p, torch.sigmoid(torch.tensor([8.0, -8.0])))


def test_pictures_are_refused():
    with pytest.raises(UsageError, match="expected points of shape"):
        boundary(Diagonal(), torch.rand(1, 3, 4, 4), torch.tensor([0]))
