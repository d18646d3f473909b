"""Extreme eigenvalues of many symmetric operators at once: batched Lanczos with full re-orthogonalisation.

Paige's and Kaniel's theory in Golub and Van Loan, "Matrix Computations", 4th ed., section 10.1-10.3: after k
products the extreme eigenvalues of the k×k projection T lie inside the operator's spectrum, and an eigenvalue
of the operator lies within |β_k s_k| of each. No host synchronisation inside the loop.

`bench.models.layers.conv_lanczos` has the restarted form for one operator, AᵀA of a convolution, whose rounding is
part of every trained weight: the two agree in exact arithmetic, not bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.numerics.hessian_terms import Product
from bench.numerics.vectors import require_finite, unit


@dataclass(frozen=True)
class Spectrum:
    """The projection of B symmetric operators H on R^d onto their Krylov spaces, after k products.

    Attributes:
        projection: T = QᵀHQ, tridiagonal, (B, k, k) float64.
        basis: orthonormal rows Qᵀ, (B, k, d).
        last: norm of what the last product left outside the basis, β_k, (B,) float64.
        ritz: eigenvalues of T, ascending, (B, k).
        vectors: eigenvectors of T, in columns, (B, k, k).
    """

    projection: Tensor
    basis: Tensor
    last: Tensor
    ritz: Tensor
    vectors: Tensor

    @property
    def norm(self) -> Tensor:
        """The largest |ritz|, a lower estimate of the spectral norm, (B,)."""
        return self.ritz.abs().amax(1)

    @property
    def residual(self) -> Tensor:
        """‖Hw − θw‖ for the Ritz pair (θ, w) of largest |θ|: an eigenvalue lies that near θ, (B,)."""
        return self.last * self._top().gather(1, self._last_row()).squeeze(1).abs()

    @property
    def top_vector(self) -> Tensor:
        """The unit Ritz vector w of largest |θ|, (B, d)."""
        return torch.einsum("bk,bkd->bd", self._top().to(self.basis.dtype), self.basis)

    def leading(self, steps: int) -> Spectrum:
        """Return the projection as it was after the first products, bit for bit.

        Args:
            steps: products, ≥ 1; with the k that were made, or more, the whole spectrum.
        """
        if steps >= self.ritz.shape[1]:
            return self
        projection = self.projection[:, :steps, :steps]
        ritz, vectors = torch.linalg.eigh(projection)
        return Spectrum(projection, self.basis[:, :steps], self.projection[:, steps - 1, steps], ritz, vectors)

    def _top(self) -> Tensor:
        """Return the eigenvector of T for the largest |θ|, (B, k)."""
        index = self.ritz.abs().argmax(1)
        return self.vectors.gather(2, index[:, None, None].expand(-1, self.ritz.shape[1], 1)).squeeze(2)

    def _last_row(self) -> Tensor:
        """Return the index k − 1 for every operator, (B, 1)."""
        size = self.ritz.shape[1]
        return torch.full((len(self.ritz), 1), size - 1, device=self.ritz.device)


def lanczos(product: Product, start: Tensor, steps: int) -> Spectrum:
    """Project a batch of symmetric operators on their Krylov spaces.

    Args:
        product: v (B, d) to H v (B, d), example by example.
        start: start vectors (B, d), not zero; random, so that no eigenvector is missed by symmetry.
        steps: products k; at most d are made.

    Returns:
        Ritz values and residuals of each operator.

    Raises:
        BenchError: a product is not finite.
    """
    count, size = start.shape
    steps = min(steps, size)
    basis = start.new_zeros(count, steps, size)
    projection = torch.zeros(count, steps, steps, device=start.device, dtype=torch.float64)
    magnitude = torch.zeros(count, device=start.device, dtype=start.dtype)
    v = unit(start)
    for j in range(steps):
        basis[:, j] = v
        w = product(v)
        projection[:, j, j] = (w * v).sum(1)
        w = _orthogonalized(w, basis[:, : j + 1])
        beta = torch.linalg.vector_norm(w, dim=1)
        magnitude = torch.maximum(magnitude, torch.maximum(beta, (projection[:, j, j].abs()).to(beta.dtype)))
        # An invariant subspace is exhausted: go on with a fresh direction, uncoupled (β = 0).
        exhausted = beta <= torch.finfo(start.dtype).eps * magnitude
        beta = torch.where(exhausted, 0.0, beta)
        if j + 1 < steps:
            fresh = unit(_orthogonalized(unit(start.roll(j + 1, 1)), basis[:, : j + 1]))
            v = torch.where(exhausted[:, None], fresh, w / torch.where(exhausted, 1.0, beta)[:, None])
            projection[:, j, j + 1] = projection[:, j + 1, j] = beta.double()
    last = beta.double() if steps < size else torch.zeros_like(beta, dtype=torch.float64)
    require_finite("product of the loss's Hessian", projection)
    ritz, vectors = torch.linalg.eigh(projection)
    return Spectrum(projection, basis, last, ritz, vectors)


def _orthogonalized(w: Tensor, basis: Tensor) -> Tensor:
    """Return the part of w (B, d) orthogonal to the basis's rows (B, j, d); twice is enough (Kahan)."""
    for _ in range(2):
        w = w - torch.einsum("bj,bjd->bd", torch.einsum("bjd,bd->bj", basis, w), basis)
    return w


def power_iteration(spectrum: Spectrum, iterations: int, *, scale: Tensor, eps0: float) -> Tensor:
    """Return what power iteration from the same start vector would have found, without another product.

    u ← Hu/(‖Hu‖ + ε0), and after `iterations` products in all |uᵀHu|. Every iterate lies in the Krylov space,
    where H acts as T. That is exact for iterations ≤ k or k = d.

    Args:
        spectrum: of the operator H/scale.
        iterations: products in all.
        scale: (B,).
        eps0: added to every norm that divides.
    """
    h = spectrum.projection * scale[:, None, None]
    u = torch.zeros_like(h[:, :, 0])
    u[:, 0] = 1
    for _ in range(iterations - 1):
        product = torch.einsum("bij,bj->bi", h, u)
        u = product / (product.norm(dim=1, keepdim=True) + eps0)
    return torch.einsum("bi,bij,bj->b", u, h, u).abs()
