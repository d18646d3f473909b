"""Norms of convolutions against a dense singular value decomposition of the unrolled operator."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bench.models.layers import ConvGeometry, conv_fourier_bound, conv_norm_bound, top_singular

CASES = {
    "plain": {},
    "stride": {"stride": 2},
    "stride, odd size": {"stride": 2, "in_size": (7, 7)},
    "stride that skips pixels": {"stride": 3, "kernel_size": 2, "padding": 0, "in_size": (8, 8)},
    "unequal stride, kernel, padding": {"stride": (2, 1), "kernel_size": (3, 5), "padding": (1, 0)},
    "no padding": {"padding": 0},
    "padding wider than the kernel": {"kernel_size": 1, "padding": 1},
    "dilation": {"dilation": 2, "padding": 2},
    "unequal dilation": {"dilation": (1, 2), "padding": (0, 1)},
    "groups": {"groups": 2},
    "depthwise": {"groups": 4, "out_channels": 8},
    "groups, stride and dilation": {"groups": 2, "stride": 2, "dilation": 2, "padding": 1},
    "1x1": {"kernel_size": 1, "padding": 0},
    "1x1, stride": {"kernel_size": 1, "padding": 0, "stride": 2},
    "one pixel": {"in_size": (1, 1)},
    "more out than in": {"out_channels": 12},
}


def layer(case: dict) -> tuple[torch.Tensor, ConvGeometry]:
    """Return a float64 weight and the geometry of the case."""
    torch.manual_seed(0)
    settings = {"in_channels": 4, "out_channels": 6, "kernel_size": 3, "padding": 1, **case}
    in_size = settings.pop("in_size", (6, 9))
    conv = nn.Conv2d(**settings, bias=False).double()
    return conv.weight.detach(), ConvGeometry.of(conv, in_size)


def unrolled(weight: torch.Tensor, geometry: ConvGeometry, in_channels: int = 4) -> torch.Tensor:
    """Return the convolution as a dense matrix (Cout·H'·W', Cin·H·W)."""
    n = in_channels * geometry.in_size[0] * geometry.in_size[1]
    basis = torch.eye(n, dtype=weight.dtype).view(n, in_channels, *geometry.in_size)
    return geometry.forward(basis, weight).flatten(1).T


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_adjoint_is_the_transpose(case):
    weight, geometry = layer(case)
    dense = unrolled(weight, geometry)
    basis = torch.eye(dense.shape[0], dtype=weight.dtype).view(-1, weight.shape[0], *geometry.out_size)
    torch.testing.assert_close(geometry.adjoint(basis, weight).flatten(1), dense, rtol=0, atol=1e-14)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_converged_norm_equals_the_dense_one(case):
    weight, geometry = layer(case)
    dense = unrolled(weight, geometry)
    sigma, v = top_singular(weight, geometry)
    assert sigma.item() == pytest.approx(torch.linalg.matrix_norm(dense, 2).item(), rel=1e-9)
    assert v.norm().item() == pytest.approx(1)
    assert (dense @ v.flatten()).norm().item() == pytest.approx(sigma.item(), rel=1e-9)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_fourier_bound_is_sound_and_close(case):
    weight, geometry = layer(case)
    true = torch.linalg.matrix_norm(unrolled(weight, geometry), 2).item()
    bound = conv_norm_bound(weight, geometry)
    assert true <= bound * (1 + 1e-12)
    # On one pixel the bound still counts the taps that only ever read zeros: sound, not close.
    assert bound <= (4 if geometry.in_size == (1, 1) else 1.45) * true


def test_fourier_bound_is_exact_where_nothing_is_padded_away():
    weight, geometry = layer({"kernel_size": 1, "padding": 0})
    matrix = torch.linalg.matrix_norm(weight[:, :, 0, 0], 2).item()
    assert conv_norm_bound(weight, geometry) == pytest.approx(matrix, rel=1e-12)
    assert top_singular(weight, geometry)[0].item() == pytest.approx(matrix, rel=1e-12)


def test_fourier_bound_shrinks_to_the_norm_as_the_image_grows():
    weight, _ = layer({})
    conv = nn.Conv2d(4, 6, 3, padding=1)
    gaps = []
    for n in (4, 8, 16):
        geometry = ConvGeometry.of(conv, (n, n))
        gaps.append(conv_norm_bound(weight, geometry) / top_singular(weight, geometry)[0].item() - 1)
    assert gaps[0] > gaps[1] > gaps[2] > 0


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_fourier_bound_is_the_largest_over_all_frequencies_and_in_any_portions(case, monkeypatch):
    weight, geometry = layer(case)
    period, (sh, sw) = conv_fourier_bound._circular_grid(geometry), geometry.stride
    kernel = torch.zeros(*weight.shape[:2], *period, dtype=weight.dtype)
    for i in range(geometry.kernel[0]):
        for j in range(geometry.kernel[1]):
            kernel[:, :, i * geometry.dilation[0] % period[0], j * geometry.dilation[1] % period[1]] += weight[
                :, :, i, j
            ]
    folded = torch.fft.fft2(kernel).unflatten(3, (sw, -1)).unflatten(2, (sh, -1)).unflatten(0, (geometry.groups, -1))
    blocks = folded.permute(0, 4, 6, 1, 2, 3, 5).flatten(4)
    largest = torch.linalg.matrix_norm(blocks, 2).max().item() / (sh * sw) ** 0.5
    for portion in (1 << 22, 1):
        monkeypatch.setattr(conv_fourier_bound, "_BLOCK", portion)
        bound = conv_norm_bound(weight, geometry)
        assert largest <= bound <= largest * (1 + 1e-11)


def test_zero_weight_has_norm_zero():
    weight, geometry = layer({})
    assert top_singular(torch.zeros_like(weight), geometry)[0] == 0
    assert conv_norm_bound(torch.zeros_like(weight), geometry) == 0


def test_global_generator_is_left_alone():
    weight, geometry = layer({})
    before = torch.get_rng_state()
    top_singular(weight, geometry)
    assert torch.equal(before, torch.get_rng_state())


def test_float32_is_good_to_its_precision():
    weight, geometry = layer({})
    exact = top_singular(weight, geometry)[0].item()
    assert top_singular(weight.float(), geometry)[0].item() == pytest.approx(exact, rel=2e-6)


def test_authors_size_is_two_h_minus_one_for_stride_two():
    for kernel, padding in ((3, 1), (1, 0)):
        conv = nn.Conv2d(4, 6, kernel, stride=2, padding=padding)
        geometry = ConvGeometry.of(conv, (32, 32), authors_size=True)
        assert geometry.in_size == (63, 63)
        assert geometry.out_size == (32, 32)
    same = ConvGeometry.of(nn.Conv2d(4, 6, 3, padding=1), (32, 32), authors_size=True)
    assert same.in_size == same.out_size == (32, 32)


@pytest.mark.parametrize(
    "settings",
    [{"padding": "same"}, {"padding": 1, "padding_mode": "circular"}, {"padding": 1, "padding_mode": "reflect"}],
)
def test_other_paddings_are_refused(settings):
    with pytest.raises(ValueError, match="expected zero padding given in pixels"):
        ConvGeometry.of(nn.Conv2d(1, 1, 3, **settings), (5, 5))


def test_image_smaller_than_the_kernel_is_refused():
    with pytest.raises(ValueError, match=r"expected an input that the kernel fits in, got \(2, 5\)"):
        ConvGeometry.of(nn.Conv2d(1, 1, 3), (2, 5))
