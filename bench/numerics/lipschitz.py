"""Lipschitz calculus: constants of single operations composed along the graph of the logits.

An operation multiplies by its constant, sums add, concatenations add in squares. docs/theory.md, section 6.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from bench.numerics.autograd_graph import (
    Activation,
    Node,
    activation_nodes,
    operation,
    topological_order,
)
from bench.numerics.op_norms import ONE_LIPSCHITZ, op_lipschitz
from bench.numerics.smoothness import NONSMOOTH_OPS, SOFTPLUS


@dataclass(frozen=True)
class LipschitzGraph:
    """Data-free Lipschitz constants of a network at one image size.

    Claim: every constant is at least the supremum, over all images, of the norm of the map's derivative. Holds when:
    the graph is that of the network in eval mode. Measured by: `op_lipschitz`, which errs high.

    Attributes:
        order: the graph's nodes, inputs first.
        op_constants: node → constant of its operation.
        softplus_nodes: the nodes inside activations of the softplus family (0 ≤ s' ≤ 1).
    """

    order: list[Node]
    op_constants: dict[Node, float]
    softplus_nodes: dict[Node, Activation]

    def from_input(self, max_derivatives: dict[Node, float] | None = None) -> dict[Node, float]:
        """Return for every node the constant of the map from the image to its output.

        Sums add, concatenations add in squares. Inside an activation s(z) + constant and the like are one map,
        of which the largest input counts.

        Args:
            max_derivatives: node of an activation's output → largest s' at an image, where that is known; else 1.

        Returns:
            Node to constant, ≥ 0.
        """
        result: dict[Node, float] = {}
        for node in self.order:
            inputs = [result[p] for p, _ in node.next_functions if p is not None] or [1.0]
            if node in self.softplus_nodes:
                combined = max(inputs) * (max_derivatives or {}).get(node, 1.0)
            else:
                combined = math.hypot(*inputs) if operation(node) == "Cat" else sum(inputs)
            result[node] = self.op_constants[node] * combined
        return result

    def activation_outputs(self) -> list[Node]:
        """Return the nodes that are the outputs of activations of the softplus family, in the order of the calls."""
        return [node for node, activation in self.softplus_nodes.items() if node is activation.after.grad_fn]

    def jacobian_from_input(self, slopes: Mapping[Node, float] | None = None) -> dict[Node, float]:
        """Return for every node a Lipschitz constant c of the Jacobian of the map from the image to its output.

        Claim: ‖J(x') − J(x)‖₂ ≤ c·‖x' − x‖ for all images (Entesari, Sharifi, Fazlyab 2024); with `slopes`, for the
        one image x that they were taken at and every x'. An affine operation of norm n: n·c; sums add, concatenations
        add in squares. An activation with slopes in [0, 1] and s'' ≤ β/4 behind a map of constants L and c:
        c + (β/4)·L·R, R = L or, anchored, its slope at x. Infinite behind an operation that is not smooth.

        Args:
            slopes: node of an activation's output → R ≥ max_k ‖∇z_k(x)‖₂ of its input z; None: none is known.

        Returns:
            Node to constant, ≥ 0.
        """
        gains = self.from_input()
        result: dict[Node, float] = {}
        for node in self.order:
            inputs = [result[p] for p, _ in node.next_functions if p is not None] or [0.0]
            if node in self.softplus_nodes:
                activation, added = self.softplus_nodes[node], 0.0
                if node is activation.after.grad_fn:
                    inner = 1.0 if activation.source is None else gains[activation.source]
                    added = (activation.beta or math.inf) / 4 * inner * min(inner, (slopes or {}).get(node, inner))
                result[node] = max(inputs) + added
            elif operation(node) in ONE_LIPSCHITZ or operation(node) in NONSMOOTH_OPS:
                result[node] = math.inf
            else:
                combined = math.hypot(*inputs) if operation(node) == "Cat" else sum(inputs)
                result[node] = self.op_constants[node] * combined
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
    """Return the constants of all operations behind the logits.

    Args:
        logits: with their graph.
        activations: of the forward pass that made them.

    Raises:
        NotImplementedError: an operation's constant is not known; its name.
    """
    softplus_nodes = activation_nodes([a for a in activations if isinstance(a.module, SOFTPLUS)])
    order = topological_order(logits)
    op_constants = {
        n: 1.0 if n in softplus_nodes or operation(n) == "AccumulateGrad" else op_lipschitz(n) for n in order
    }
    return LipschitzGraph(order, op_constants, softplus_nodes)
