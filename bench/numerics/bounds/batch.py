"""A batch of images with what every bound is computed from: loss to second order, top eigenvector, activations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.attacks.core.randomness import Stream, normal
from bench.numerics.autograd_graph import RecordedCalls, nonsmooth_ops, record_activations
from bench.numerics.derivatives import Expansion, expand
from bench.numerics.lanczos import Spectrum, lanczos
from bench.numerics.vectors import unit

SPECTRUM_STEPS = 20


@dataclass(frozen=True)
class BoundBatch:
    """B images and their loss, expanded to second order.

    Attributes:
        model: logits (B, K) from images (B, C, H, W), in eval mode and float64.
        at: the expansion at the images; d = C·H·W.
        y: labels (B,).
        keys: of the images' random numbers, (B,).
        calls: the activations of the forward pass.
    """

    model: nn.Module
    at: Expansion
    y: Tensor
    keys: Tensor
    calls: RecordedCalls

    @classmethod
    def expand(cls, model: nn.Module, x: Tensor, y: Tensor, keys: Tensor) -> BoundBatch:
        """Return the batch of images x (B, C, H, W) with labels y (B,).

        Args:
            model: logits (B, K) from images, in eval mode, in the type of x.
            x: images.
            y: labels.
            keys: of the images' random numbers, (B,).

        Returns:
            The expansion of each image.

        Raises:
            BenchError: a logit or a gradient is not finite.
        """
        with record_activations(model) as calls:
            at = expand(model, x, y)
        return cls(model, at, y, keys, calls)

    @property
    def not_applicable(self) -> str:
        """Why no bound applies: the operations that are not twice differentiable; "" if there are none."""
        reasons = nonsmooth_ops(self.at.logits, self.calls) if self.at.logits.requires_grad else ["no gradient"]
        return ", ".join(reasons)

    def normal(self, stream: Stream) -> Tensor:
        """Return a standard normal vector for every image, (B, d).

        Args:
            stream: number of the image's random stream.
        """
        return normal(self.keys, stream, (self.at.gradient.shape[1],), self.at.x.dtype)

    def spectrum(self) -> Spectrum:
        """Return what 20 Lanczos products tell about ∇²f/scale of every image."""
        return lanczos(self.at.hvp, self.normal(Stream.LANCZOS_START), SPECTRUM_STEPS)

    def directions(self, spectrum: Spectrum) -> list[Tensor]:
        """Return a random unit vector and the Hessian's top eigenvector, on the side where the loss rises, (B, d) each.

        Args:
            spectrum: of the images' Hessians.
        """
        worst = unit(spectrum.top_vector)
        worst = torch.where((worst * self.at.gradient).sum(1, keepdim=True) < 0, -worst, worst)
        return [unit(self.normal(Stream.SEGMENT_DIRECTION)), worst]
