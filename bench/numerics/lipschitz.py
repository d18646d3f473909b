"""Lipschitz calculus: constants of single operations composed along the graph of the logits."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from torch import Tensor

from bench.numerics.autograd_graph import (
    SOFTPLUS,
    Activation,
    Node,
    activation_nodes,
    operation,
    topological_order,
)
from bench.numerics.op_norms import op_lipschitz


@dataclass(frozen=True)
class LipschitzGraph:
    """Data-free Lipschitz constants of a network at one image size.

    Attributes:
        order: the graph's nodes, inputs first.
        op_constants: node → constant of its operation.
        softplus_nodes: the nodes inside activations of the softplus family (slope ≤ 1).
    """

    order: list[Node]
    op_constants: dict[Node, float]
    softplus_nodes: dict[Node, Activation]

    def from_input(self, slopes: dict[Node, float] | None = None) -> dict[Node, float]:
        """Return, for every node, the constant of the map from the image to its output.

        Sums add, concatenations add in squares. Inside an activation s(z) + constant and the like are one map,
        of which the largest input counts.

        Args:
            slopes: activation outputs' nodes to the largest slope at an image, where that is known.
        """
        result: dict[Node, float] = {}
        for node in self.order:
            inputs = [result[p] for p, _ in node.next_functions if p is not None] or [1.0]
            if node in self.softplus_nodes:
                joined = max(inputs) * (slopes or {}).get(node, 1.0)
            else:
                joined = math.hypot(*inputs) if operation(node) == "Cat" else sum(inputs)
            result[node] = self.op_constants[node] * joined
        return result

    def to_logits(self) -> dict[Node, float]:
        """Return, for every node, the constant of the map from its output to the logits."""
        result: dict[Node, float] = defaultdict(float, {self.order[-1]: 1.0})
        for node in reversed(self.order):
            parents = [p for p, _ in node.next_functions if p is not None]
            for parent in set(parents):
                times = 1 if node in self.softplus_nodes else parents.count(parent)
                result[parent] += times * self.op_constants[node] * result[node]
        return dict(result)

    def last_matrix(self) -> tuple[Node, Tensor] | None:
        """Return the node of the features and the matrix W (K, features) behind them; None without one."""
        last = self.order[-1]
        if operation(last) not in ("Addmm", "Mm"):
            return None
        features = next(p for p, _ in last.next_functions if p is not None)
        return features, last._saved_mat2.detach().T


def lipschitz_graph(logits: Tensor, activations: list[Activation]) -> LipschitzGraph:
    """Return the gains of all operations behind the logits.

    Raises:
        NotImplementedError: an operation's gain is not known; its name.
    """
    owned = activation_nodes([a for a in activations if isinstance(a.module, SOFTPLUS)])
    order = topological_order(logits)
    local = {n: 1.0 if n in owned or operation(n) == "AccumulateGrad" else op_lipschitz(n) for n in order}
    return LipschitzGraph(order, local, owned)
