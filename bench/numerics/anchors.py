"""Slopes at an image, to which Lipschitz constants of Jacobians can be anchored (docs/theory.md, section 6)."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from bench.numerics.autograd_graph import Activation, Node
from bench.numerics.hessian_terms import pushforwards
from bench.numerics.lipschitz import LipschitzGraph
from bench.numerics.smoothness import SOFTPLUS

EXACT: Final = 256  # numbers of an image up to which slopes are exact: each costs two passes


def largest_rows(outputs: list[Tensor], x: Tensor) -> list[Tensor]:
    """Return max_k ‖∂output_k/∂x‖₂ of every output, (B,) each: exact, by one product per number of an image.

    Args:
        outputs: (B, …) each, with their graphs.
        x: (B, C, H, W), which they depend on.
    """
    push, squares = pushforwards(outputs, x), [torch.zeros_like(o) for o in outputs]
    for j in range(x[0].numel()):
        unit = torch.zeros_like(x).flatten(1)
        unit[:, j] = 1
        for total, column in zip(squares, push(unit), strict=True):
            total += column.square()
    return [total.flatten(1).amax(1).sqrt() for total in squares]


def slopes_at_images(graph: LipschitzGraph, activations: list[Activation], x: Tensor) -> list[dict[Node, float]]:
    """Return for every image what `LipschitzGraph.jacobian_from_input` is anchored with.

    Claim: R ≥ max_k ‖∇z_k(x)‖₂ for the input z of every activation. Measured by: the exact rows of the Jacobian for
    images of up to `EXACT` numbers; else the norms of the operations, with the largest s' at the image for every
    activation, which is at least as large.

    Args:
        graph: constants of the network.
        activations: of the forward pass of the images x (B, C, H, W), in the order of the calls.
        x: the images.
    """
    smooth, nodes = [a for a in activations if isinstance(a.module, SOFTPLUS)], graph.activation_outputs()
    if not smooth:
        return [{} for _ in x]
    if x[0].numel() <= EXACT:
        rows = torch.stack(largest_rows([a.before for a in smooth], x), 1).tolist()
        return [dict(zip(nodes, row, strict=True)) for row in rows]
    steepest = torch.stack([a.derivatives()[0].abs().flatten(1).amax(1) for a in smooth], 1).tolist()
    return [_composed(graph, dict(zip(nodes, row, strict=True))) for row in steepest]


def _composed(graph: LipschitzGraph, steepest: dict[Node, float]) -> dict[Node, float]:
    """Return the slope of every activation's input at an image, from its largest s' in every activation."""
    gains, sources = graph.from_input(steepest), {node: graph.softplus_nodes[node].source for node in steepest}
    return {node: 1.0 if source is None else gains[source] for node, source in sources.items()}
