"""Layers with weight W/σ, σ the norm of a linear map that W makes, by one power iteration per pass in training mode.

`SpectralNormWeight`, of which `SpectralNormConv2d` and `SpectralNormLinear` are kinds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from bench.core.torch_state import functorch_active, without_autocast
from bench.models.layers.precompute import JointWork, PrecomputedWeight, Tensors, joined

TINY = 1e-18  # added to norms, below the last digit of any that matters: a weight of 0 stays 0


class _Normalise(JointWork):
    """One power iteration of several layers, and W ↦ W/σ, σ a bilinear form in W with constant vectors.

    With S = ∂σ/∂W and Ŵ = W/σ, the gradient is (g − ⟨g, Ŵ⟩·S)/σ: fewer operations than autograd's, whose number is
    what a step on small images costs.
    """

    @staticmethod
    def compute(layers: Sequence[SpectralNormWeight], sources: Tensors) -> tuple[Tensors, Tensors]:
        across, across_norms, back, back_norms, sigmas = _iterate(layers, sources)
        each = sigmas.unbind()
        normalised = torch._foreach_div(sources, each)
        norms = (back_norms * across_norms).unbind()
        return normalised, (*sources, *each, *back, *across, *norms, *normalised)

    @staticmethod
    def pull_back(layers: Sequence[SpectralNormWeight], saved: Tensors, grads: Tensors) -> Tensors:
        n = len(grads)
        weights, sigmas, back, across, norms, normalised = (saved[i * n : (i + 1) * n] for i in range(6))
        with torch.no_grad():
            each = zip(layers, across, back, weights, strict=True)
            slopes = [layer.weight_gradient(*given) for layer, *given in each]
        if torch.is_grad_enabled():  # to be differentiated again: σ and W/σ as functions of W
            given = zip(grads, weights, torch._foreach_div(slopes, norms), strict=True)
            return [_pulled_back(grad, weight, slope) for grad, weight, slope in given]
        dots = [torch.dot(g.reshape(-1), w.reshape(-1)) for g, w in zip(grads, normalised, strict=True)]
        along = torch._foreach_div(dots, norms)
        rest = [torch.addcmul(g, s, a, value=-1) for g, s, a in zip(grads, slopes, along, strict=True)]
        torch._foreach_div_(rest, sigmas)
        return rest


def _pulled_back(grad: Tensor, weight: Tensor, slope: Tensor) -> Tensor:
    """Return the gradient in W of ⟨grad, W/σ⟩, σ = ⟨slope, W⟩, differentiable in grad and W."""
    sigma = (slope * weight).sum() + TINY
    return (grad - (grad * (weight / sigma)).sum() * slope) / sigma


@torch.no_grad()
def _iterate(layers: Sequence[SpectralNormWeight], weights: Tensors) -> tuple[Tensors, Tensor, Tensors, Tensor, Tensor]:
    """Do one power iteration of each of L layers with W and store its vectors and σ.

    Returns:
        What `across` gives at the kept vectors, with norms (L,), what `back` gives there, with norms (L,), and σ (L,);
        the vectors are not divided by their norms.
    """
    kept = [layer.kept_vector() for layer in layers]
    across = [layer.across(vector, weight) for layer, vector, weight in zip(layers, kept, weights, strict=True)]
    back = [layer.back(vector, weight) for layer, vector, weight in zip(layers, across, weights, strict=True)]
    across_norms, back_norms = (torch.stack(torch._foreach_norm([*across, *back])) + TINY).view(2, -1).unbind()
    torch._foreach_copy_(kept, torch._foreach_div(back, back_norms.unbind()))
    sigmas = back_norms / across_norms
    for layer, sigma, vector, norm in zip(layers, sigmas.unbind(), across, across_norms.unbind(), strict=True):
        layer.store(sigma, vector, norm)
    return across, across_norms, back, back_norms, sigmas


class SpectralNormWeight(PrecomputedWeight):
    """A layer with weight W/σ, σ the largest singular value of a map A that is linear in W.

    Each pass in training mode makes one power iteration from the vector z that the layer keeps, on either side of A:
    `across` takes it to the other side, by A or its adjoint, `back` returns,

        a ← across(z)/‖across(z)‖,  σ = ‖back(a)‖,  z ← back(a)/σ

    σ is differentiable in W with both vectors held constant. Nothing waits for the device.
    """

    joint: ClassVar[type[JointWork] | None] = _Normalise

    def kept_vector(self) -> Tensor:
        """Return the buffer z with ‖z‖ = 1, which an iteration starts from and writes to."""
        raise NotImplementedError

    def across(self, vector: Tensor, weight: Tensor) -> Tensor:
        """Return A or its adjoint at a vector of the kept one's side, for W."""
        raise NotImplementedError

    def back(self, vector: Tensor, weight: Tensor) -> Tensor:
        """Return the adjoint of `across` at a vector of the other side, for W."""
        raise NotImplementedError

    def weight_gradient(self, across: Tensor, back: Tensor, weight: Tensor) -> Tensor:
        """Return the gradient of ⟨back, `back`(across)⟩ in W, in the shape of W; it does not depend on W."""
        raise NotImplementedError

    def store(self, sigma: Tensor, across: Tensor, norm: Tensor) -> None:
        """Keep what eval mode needs of an iteration: σ, shape (), or the other side's vector, across/norm."""
        raise NotImplementedError

    def precompute(self, source: Tensor) -> Tensor:
        """Do one power iteration with W, store its vectors and σ, and return W/σ with its gradient in W.

        Args:
            source: W.

        Returns:
            W/σ, in the shape of W.
        """
        with without_autocast(source.device):
            if not torch.compiler.is_compiling() and not functorch_active():
                return joined([self], [source])[0]
            (across,), across_norm, (back,), back_norm, _ = _iterate([self], [source])
            sigma = (self.back(across / across_norm, source) * (back / back_norm)).sum() + TINY
            return source / sigma
