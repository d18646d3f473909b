"""Converged spectral norm of a convolution as a map on images, by restarted Lanczos."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.models.layers.conv_geometry import ConvGeometry


@torch.no_grad()
def top_singular(
    weight: Tensor, geometry: ConvGeometry, *, basis: int = 24, rounds: int = 20, start: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the converged spectral norm, shape (), and its right singular vector v (1, Cin, H, W), ‖v‖ = 1.

    Restarted Lanczos on AᵀA with full re-orthogonalisation, from a fixed start (the global generator is not
    touched), until ‖AᵀAv − σ²v‖ ≤ 100 machine epsilons · σ². Like every Krylov method it errs low. In the weight's
    own precision on a CPU, in float64 elsewhere, where TF32 would cost three digits, and for half precision.

    Args:
        weight: (Cout, Cin/groups, kh, kw).
        geometry: the rest of the convolution.
        basis: Krylov vectors per restart (24 images of the input's size are held).
        rounds: restarts at most.
        start: start vector, (1, Cin, H, W), not 0; None: a fixed random vector.

    Returns:
        σ and v.
    """
    if weight.device.type != "cpu" or weight.dtype.itemsize < 4:
        weight = weight.double()
    if start is None:
        shape = (1, weight.shape[1] * geometry.groups, *geometry.in_size)
        start = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    v = (start / start.norm()).to(weight)
    value = torch.zeros((), dtype=weight.dtype, device=weight.device)
    for _ in range(rounds):
        vectors, images = _krylov(v, weight, geometry, basis)
        values, combinations = torch.linalg.eigh((vectors @ images.T + images @ vectors.T) / 2)
        value, best = values[-1].clamp_min(0), combinations[:, -1]
        v = (best @ vectors).view_as(v)
        residual = (best @ images - value * v.flatten()).norm()
        v = v / v.norm()
        if residual <= 100 * torch.finfo(weight.dtype).eps * value:
            break
    return value.sqrt(), v


def _krylov(v: Tensor, weight: Tensor, geometry: ConvGeometry, size: int) -> tuple[Tensor, Tensor]:
    """Return an orthonormal Krylov basis of AᵀA that starts at v, and its image under AᵀA; both (≤ size, n)."""
    size = min(size, v.numel())
    vectors, images = [v.flatten()], []
    while True:
        image = geometry.adjoint(geometry.forward(vectors[-1].view_as(v), weight), weight).flatten()
        images.append(image)
        if len(images) == size:
            break
        basis, rest = torch.stack(vectors), image
        for _ in range(2):  # once is not enough in floating point
            rest = rest - basis.T @ (basis @ rest)
        if rest.norm() <= 10 * torch.finfo(v.dtype).eps * image.norm():
            break  # the space is invariant, as small maps' soon are
        vectors.append(rest / rest.norm())
    return torch.stack(vectors), torch.stack(images)
