"""Batched Lanczos against matrices whose spectra are known."""

import pytest
import torch

from bench.core.errors import BenchError
from bench.numerics.lanczos import lanczos, power_iteration


def symmetric(spectrum, seed=0):
    """Return a float64 matrix with the given eigenvalues and random eigenvectors."""
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=generator, dtype=torch.float64))
    return q @ torch.diag(torch.as_tensor(spectrum, dtype=torch.float64)) @ q.T


def run(matrices, steps, seed=1):
    stacked = torch.stack(matrices)
    start = torch.randn(stacked.shape[:2], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return lanczos(lambda v: torch.einsum("bij,bj->bi", stacked, v), start, steps)


def test_both_ends_of_a_spectrum_with_equal_magnitudes():
    # λmin ≈ −λmax is where uᵀHu of power iteration cancels
    spectrum = [-9.0, 9.0 - 1e-6, *torch.linspace(-3, 3, 38).tolist()]
    found = run([symmetric(spectrum)], 12)
    assert found.ritz[0, 0] == pytest.approx(-9.0, rel=1e-6)
    assert found.ritz[0, -1] == pytest.approx(9.0 - 1e-6, rel=1e-6)
    assert found.norm[0] == pytest.approx(9.0, rel=1e-6)


def test_ritz_values_never_leave_the_spectrum_and_an_eigenvalue_lies_within_the_residual():
    matrices = [symmetric(torch.randn(30, generator=torch.Generator().manual_seed(s)).tolist(), s) for s in range(8)]
    for steps in (2, 5, 10):
        found = run(matrices, steps)
        for i, matrix in enumerate(matrices):
            eigenvalues = torch.linalg.eigvalsh(matrix)
            assert found.ritz[i, 0] >= eigenvalues[0] - 1e-12
            assert found.ritz[i, -1] <= eigenvalues[-1] + 1e-12
            w = found.top_vector[i]
            theta = w @ matrix @ w
            assert abs(theta) == pytest.approx(float(found.norm[i]))
            assert float((matrix @ w - theta * w).norm()) == pytest.approx(float(found.residual[i]), abs=1e-9)
            assert (eigenvalues - theta).abs().min() <= found.residual[i] + 1e-12


def test_the_basis_stays_orthonormal_in_single_precision():
    spectrum = [1e4, *torch.linspace(0.1, 1, 99).tolist()]
    matrix = symmetric(spectrum).float()
    found = lanczos(lambda v: v @ matrix, torch.randn(1, 100, generator=torch.Generator().manual_seed(0)), 40)
    gram = found.basis[0] @ found.basis[0].T
    assert (gram - torch.eye(40)).abs().max() < 1e-5
    assert found.norm[0] == pytest.approx(1e4, rel=1e-5)


@pytest.mark.parametrize("spectrum", [[4.0] * 12, [0.0] * 12, [5.0, *[2.0] * 11], [-7.0, *[0.0] * 11]])
def test_few_distinct_eigenvalues_exhaust_the_krylov_space_without_inventing_any(spectrum):
    found = run([symmetric(spectrum)], 8)
    assert found.ritz.isfinite().all()
    for value in found.ritz[0]:
        assert min(abs(float(value) - s) for s in spectrum) < 1e-9
    assert found.norm[0] == pytest.approx(max(map(abs, spectrum)), abs=1e-9)


def test_more_steps_than_dimensions_give_the_whole_spectrum():
    matrices = [symmetric([-3.0, 1.0, 2.0]), symmetric([0.0, 0.0, 5.0])]
    found = run(matrices, 10)
    assert found.ritz.shape == (2, 3)
    assert torch.allclose(found.ritz, torch.tensor([[-3.0, 1, 2], [0, 0, 5]], dtype=torch.float64), atol=1e-9)
    assert (found.residual < 1e-9).all()


def test_examples_do_not_influence_each_other():
    matrices = [symmetric(torch.randn(20, generator=torch.Generator().manual_seed(s)).tolist(), s) for s in range(3)]
    together = run(matrices, 6)
    start = torch.randn(3, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alone = lanczos(lambda v: v @ matrices[1], start[1:2], 6)
    assert torch.allclose(together.ritz[1], alone.ritz[0], rtol=1e-10)


@pytest.mark.parametrize("eps0", [0.0, 1e-2])
def test_power_iteration_is_read_off_the_krylov_space(eps0):
    matrix, scale = symmetric(torch.linspace(-2, 3, 25).tolist()), 0.3
    start = torch.randn(1, 25, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = lanczos(lambda v: v @ matrix, start, 10)
    u = start[0] / start[0].norm()
    for _ in range(9):
        product = scale * matrix @ u
        u = product / (product.norm() + eps0)
    expected = float((u @ (scale * matrix) @ u).abs())
    got = power_iteration(found, 10, scale=torch.tensor([scale], dtype=torch.float64), eps0=eps0)
    assert float(got[0]) == pytest.approx(expected, rel=1e-9)


def test_an_infinite_product_is_refused():
    with pytest.raises(BenchError, match="expected finite numbers"):
        lanczos(lambda v: v * torch.inf, torch.ones(2, 5), 3)
