"""Decision boundary of a network in the plane: the paper's Figure 1, for data sets of points."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor, nn

from bench.core.decorators import evaluation
from bench.core.errors import UsageError
from bench.core.records import Column

POINTS = 121  # per side of the map; finer than a contour drawn 280 pixels wide can show


class DecisionGrid(TypedDict):
    """Probabilities over the unit square.

    Attributes:
        probability: of class 1, rows from the lowest, each from left to right.
        extent: left, right, bottom, top of the square.
    """

    probability: list[list[float]]
    extent: list[float]


def decision_map(model: nn.Module, device: torch.device) -> dict[str, DecisionGrid]:
    """Return the probability of class 1 over the unit square, as the page draws it.

    Args:
        model: network in eval mode, points (B, 2, 1, 1) in [0, 1]² → logits (B, 2).
        device: where the model is.

    Returns:
        The one entry `grid`.
    """
    side = torch.linspace(0.0, 1.0, POINTS, device=device)
    vertical, horizontal = torch.meshgrid(side, side, indexing="ij")
    points = torch.stack([horizontal, vertical], -1).reshape(-1, 2, 1, 1)
    with torch.no_grad():
        probability = model(points).softmax(1)[:, 1].reshape(POINTS, POINTS)
    rows = [[round(v, 5) for v in row] for row in probability.tolist()]
    return {"grid": {"probability": rows, "extent": [0.0, 1.0, 0.0, 1.0]}}


@evaluation(
    source="Srinivas et al. 2022, Figure 1 (a, b)",
    columns={
        "true_probability": Column(
            "Probability that the network gives to the true class.",
            direction="higher",
            formula="softmax(z(x))_y",
            source="Srinivas et al. 2022, Figure 1",
        ),
        "point_x": Column(
            "Horizontal place of the point.", unit="of the unit square", role="coordinate", params={"axis": "x"}
        ),
        "point_y": Column(
            "Vertical place of the point.", unit="of the unit square", role="coordinate", params={"axis": "y"}
        ),
    },
    summary=decision_map,
)
def boundary(model: nn.Module, x: Tensor, y: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Return the probability of the true class at every point; the summary has that of class 1 on a grid.

    Args:
        model: network in eval mode, points (B, 2, 1, 1) in [0, 1]² → logits (B, 2).
        x: points (B, 2, 1, 1).
        y: labels (B,), 0 or 1.
        seed: unused; nothing is drawn.

    Returns:
        `true_probability` (B,) in [0, 1], and `point_x`, `point_y` (B,): where the points are.

    Raises:
        UsageError: the data are not points in the plane.
    """
    if tuple(x.shape[1:]) != (2, 1, 1):
        raise UsageError(
            f"boundary: expected points of shape (2, 1, 1), got {tuple(x.shape[1:])}. Use it with two-moons only."
        )
    with torch.no_grad():
        probability = model(x).softmax(1).gather(1, y[:, None]).squeeze(1)
    return {"true_probability": probability, "point_x": x[:, 0, 0, 0], "point_y": x[:, 1, 0, 0]}
