"""The loss's Hessian as a sum over activations, and the bounds that follow (docs/theory.md, section 4).

For a network of affine maps and elementwise activations a_i = s(z_i), with J_i = ∂z_i/∂x and J = ∂logits/∂x,

    ∇²f = JᵀH_zJ + Σ_i J_iᵀ diag(d_i) J_i,   d_i = s''(z_i)∘∂f/∂a_i,

exactly (4.1); hence |uᵀ∇²f u| ≤ uᵀMu for every u, M = JᵀH_zJ + Σ_i J_iᵀ diag|d_i| J_i (4.2). Everything here is
divided by the expansion's scale, 1 − p_y.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.numerics.autograd_graph import Activation, Node
from bench.numerics.derivatives import Expansion, differentiate
from bench.numerics.hessian_terms import error_vector, pushforward, pushforwards, softmax_product
from bench.numerics.lanczos import lanczos
from bench.numerics.lipschitz import LipschitzGraph


@dataclass(frozen=True)
class LayerwiseHessian:
    """The parts of ∇²f/scale at a batch.

    Attributes:
        at: the expansion, with its graph.
        y: labels (B,).
        activations: in the order of their calls.
        first_derivatives: s'(z_i), like z_i.
        second_derivatives: s''(z_i), like z_i.
        weights: d_i = s''(z_i)∘∂(f/scale)/∂a_i, like z_i.
    """

    at: Expansion
    y: Tensor
    activations: list[Activation]
    first_derivatives: list[Tensor]
    second_derivatives: list[Tensor]
    weights: list[Tensor]

    @classmethod
    def of(cls, at: Expansion, y: Tensor, activations: list[Activation]) -> LayerwiseHessian:
        """Return the parts at an expansion.

        Args:
            at: the expansion at a batch of B images.
            y: labels (B,).
            activations: of the forward pass that made its logits.
        """
        error = error_vector(at.logits, y)
        first_derivatives, second_derivatives, weights = [], [], []
        for activation in activations:
            first, second = activation.derivatives()
            first_derivatives.append(first)
            second_derivatives.append(second)
            weights.append(second * differentiate(at.logits, activation.after, error).detach())
        return cls(at, y, activations, first_derivatives, second_derivatives, weights)

    def push(self) -> Callable[[Tensor], list[Tensor]]:
        """Return v (B, d) ↦ [J_1v, …, J_mv, Jv] from two reverse passes."""
        return pushforwards([a.before for a in self.activations] + [self.at.logits], self.at.x)

    def shares(self, u: Tensor) -> Tensor:
        """Return the parts of uᵀ(∇²f/scale)u for u (B, d): one per activation, the loss's last, (B, m + 1)."""
        *inner, logits = self.push()(u)
        parts = [(d * b.square()).flatten(1).sum(1) for d, b in zip(self.weights, inner, strict=True)]
        parts.append((logits * softmax_product(self.at.logits, self.y, logits)).sum(1))
        return torch.stack(parts, 1)

    def majorant(self) -> Callable[[Tensor], Tensor]:
        """Return v ↦ Mv/scale, (B, d) → (B, d)."""
        push, outputs = self.push(), [a.before for a in self.activations] + [self.at.logits]

        def product(v: Tensor) -> Tensor:
            *inner, logits = push(v)
            weighted = [d.abs() * b for d, b in zip(self.weights, inner, strict=True)]
            weighted.append(softmax_product(self.at.logits, self.y, logits))
            return torch.autograd.grad(outputs, self.at.x, weighted, retain_graph=True)[0].flatten(1)

        return product

    def elementwise(self, start: Tensor, steps: int) -> tuple[Tensor, list[Tensor]]:
        """Return ‖J‖²‖H_z‖/scale + Σ_i ‖d_i‖_∞‖J_i‖² (B,), and the norms [‖J_1‖, …, ‖J_m‖, ‖J‖].

        Claim: ‖∇²f‖/scale ≤ the first, (4.2). Measured by: Lanczos norms, which err low; so its tightness is shown
        and not asserted.

        Args:
            start: start vectors of Lanczos, (B, d).
            steps: products per norm.
        """
        norms = [self._norm(o, start, steps) for o in [*(a.before for a in self.activations), self.at.logits]]
        bound = norms[-1] ** 2 * self.softmax_norm()
        for d, norm in zip(self.weights, norms, strict=False):
            bound = bound + d.abs().flatten(1).amax(1) * norm**2
        return bound, norms

    def _norm(self, output: Tensor, start: Tensor, steps: int) -> Tensor:
        """Return ‖∂output/∂x‖₂ per example, (B,)."""
        push = pushforward(output, self.at.x)
        spectrum = lanczos(lambda v: differentiate(output, self.at.x, push(v)).flatten(1), start, steps)
        return spectrum.norm.sqrt()

    def softmax_norm(self) -> Tensor:
        """Return ‖H_z‖₂/scale of the softmax's covariance H_z = diag(p) − ppᵀ, (B,)."""
        logits = self.at.logits.detach()
        columns = torch.eye(logits.shape[1], dtype=logits.dtype, device=logits.device)
        matrix = torch.stack([softmax_product(logits, self.y, c.expand_as(logits)) for c in columns], 1)
        return torch.linalg.eigvalsh((matrix + matrix.mT) / 2)[:, -1]

    def data_free(self, graph: LipschitzGraph) -> tuple[float, float]:
        """Return L, the network's Lipschitz constant, and B = Σ_i (β_i/4)P_iN_i², the bound of its curvature.

        Claim: ‖∇²f‖ ≤ L²/2 + √2·B and ‖∇²f‖/‖p − e_y‖ ≤ √2·L² + B, whatever the image, (4.3). Holds when: all
        activations are of the softplus family; else B is infinite. P_i and N_i are the constants of a_i → logits
        and of image → z_i.

        Args:
            graph: constants of the network's graph.
        """
        from_input, to_logits, total = graph.from_input(), graph.to_logits(), 0.0
        for activation in self.activations:
            inner, outer = input_lipschitz(activation, from_input), to_logits[activation.after.grad_fn]
            total += math.inf if activation.beta is None else activation.beta / 4 * outer * inner**2
        return from_input[graph.order[-1]], total

    def printed(self, graph: LipschitzGraph) -> dict[str, Tensor]:
        """Return the right sides of Theorem 1 and Lemma 1 as printed, (B,) each; all of them are false.

        Theorem 1: Σ_i n_i·C_{f_i}·Π_{j≤i}‖J_j‖, "pointwise" with each activation's curvature and derivative at the
        image, "max" with their suprema β_i and 1. "lemma" is the pointwise sum without n_i. Products run along
        the graph (residual branches add); the loss is the last layer, with n = 1, C ≤ √2 and derivative ≤ √2.

        Args:
            graph: constants of the network's graph.
        """
        from_input = graph.from_input()
        largest = 2.0 * from_input[graph.order[-1]]
        for a in self.activations:
            largest += a.before[0].numel() * (math.inf if a.beta is None else a.beta) * input_lipschitz(a, from_input)
        rows = [self._printed_here(graph, i) for i in range(len(self.y))]
        pointwise = torch.tensor(rows, dtype=torch.float64, device=self.y.device).T
        return {"pointwise": pointwise[0], "lemma": pointwise[1], "max": torch.full_like(pointwise[0], largest)}

    def _printed_here(self, graph: LipschitzGraph, image: int) -> tuple[float, float]:
        """Return the pointwise right sides of Theorem 1 and Lemma 1 for one image of the batch."""
        largest_derivatives = [float(s[image].abs().max()) for s in self.first_derivatives]
        from_input = graph.from_input(
            {a.after.grad_fn: s for a, s in zip(self.activations, largest_derivatives, strict=True)}
        )
        theorem = lemma = 2.0 * from_input[graph.order[-1]]
        for a, second in zip(self.activations, self.second_derivatives, strict=True):
            term = float(second[image].abs().max()) * input_lipschitz(a, from_input)  # C_{f_i}·‖J_i‖ = max s''
            theorem += a.before[0].numel() * term
            lemma += term
        return theorem, lemma


def input_lipschitz(activation: Activation, from_input: dict[Node, float]) -> float:
    """Return the gain from the image to an activation's input."""
    return 1.0 if activation.source is None else from_input[activation.source]
