"""Common corruptions against closed forms, and what holds for all of them: the box, the draws, the growing damage."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bench.attacks.core.randomness import example_keys
from bench.core.errors import UsageError
from bench.data.catalog import load
from bench.data.pixels import to_unit
from bench.measuring.corruptions import blur, coding, light, noise
from bench.measuring.corruptions.scale import CORRUPTIONS, SEVERITIES, corrupted

NAMES = tuple(CORRUPTIONS)
GROWING = tuple(name for name in NAMES if name != "jpeg")  # its strength falls with the severity


@pytest.fixture(scope="module")
def digits() -> Tensor:
    """The first 24 digits, (24, 1, 8, 8)."""
    return to_unit(torch.tensor(load("digits", limit=24).test.images))


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Smooth coloured pictures with edges, (3, 3, 48, 64)."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 48), torch.linspace(0, 1, 64), indexing="ij")
    waves = [torch.sin(f * rows + g * columns) for f, g in ((5, 2), (9, 12), (20, 3))]
    base = torch.stack([0.5 + 0.3 * wave for wave in waves])
    edge = ((rows - 0.5) ** 2 + (columns - 0.4) ** 2 < 0.06).float()
    return torch.stack([base.roll(k, 0) * (1 - 0.6 * edge) for k in range(3)])


def keys(x: Tensor) -> Tensor:
    return example_keys(x, 0)


@pytest.mark.parametrize("name", NAMES)
def test_images_stay_in_the_box_and_the_damage_grows(name, digits, pictures) -> None:
    for x in (digits, pictures):
        copies = [corrupted(x, name, severity, seed=0) for severity in SEVERITIES]
        assert all(c.shape == x.shape and c.dtype == x.dtype for c in copies)
        assert all(c.isfinite().all() for c in copies)
        assert min(c.min() for c in copies) >= 0
        assert max(c.max() for c in copies) <= 1
        damage = [float((c - x).square().mean()) for c in copies]
        assert damage[0] > 0
        assert damage == sorted(set(damage)), "grows"


@pytest.mark.parametrize("name", NAMES)
def test_draws_belong_to_the_image_and_the_seed(name, digits) -> None:
    whole = corrupted(digits, name, 4, seed=3)
    alone = torch.cat([corrupted(digits[i : i + 1], name, 4, seed=3) for i in reversed(range(len(digits)))]).flip(0)
    assert torch.allclose(alone, whole, atol=1e-6)
    other = corrupted(digits, name, 4, seed=4)
    drawn = name.endswith("noise") or name in ("motion_blur", "haze")
    assert torch.equal(other, whole) != drawn


@pytest.mark.parametrize("name", GROWING)
def test_strength_0_leaves_the_image_and_a_weak_one_nearly(name, pictures) -> None:
    function = CORRUPTIONS[name].function
    assert torch.allclose(function(pictures, keys(pictures), 0.0), pictures, atol=1e-6)
    weak = function(pictures, keys(pictures), 2e-3).clamp(0, 1)
    assert float((weak - pictures).square().mean()) < 2e-3


def test_jpeg_at_high_quality_is_near_and_greyscale_and_odd_channels_work(digits, pictures) -> None:
    smooth = pictures.mean(1, keepdim=True)
    assert (coding.jpeg(smooth, keys(smooth), 95) - smooth).abs().max() < 0.06
    two = torch.cat([digits, 1 - digits], 1)
    back = coding.jpeg(two, keys(two), 90)
    assert torch.equal(back[:, :1], coding.jpeg(digits, keys(digits), 90))
    black = torch.zeros(1, 3, 16, 24)
    assert coding.jpeg(black, keys(black), 8).max() < 0.02


@pytest.mark.parametrize("name", ["defocus_blur", "motion_blur", "contrast", "pixelate"])
@pytest.mark.parametrize("value", [0.0, 0.3, 1.0])
def test_a_constant_image_stays_under_averages(name, value) -> None:
    x = torch.full((2, 3, 9, 13), value)
    assert torch.allclose(corrupted(x, name, 5, seed=0), x, atol=1e-6)


def test_noise_has_the_moments_that_it_says() -> None:
    x = torch.full((4, 3, 96, 96), 0.4)
    n = x.numel()
    gaussian = noise.gaussian_noise(x, keys(x) + torch.arange(4), 0.1) - x
    assert gaussian.mean().abs() < 4 * 0.1 / math.sqrt(n)
    assert gaussian.std() == pytest.approx(0.1, rel=0.01)
    shot = noise.shot_noise(x, keys(x) + torch.arange(4), 0.05)
    assert shot.mean() == pytest.approx(0.4, abs=4 * math.sqrt(0.05 * 0.4 / n))
    assert shot.var() == pytest.approx(0.05 * 0.4, rel=0.03)
    counts = (shot / 0.05).round()
    assert torch.allclose(counts * 0.05, shot, atol=1e-6), "whole photons"
    rate = 0.4 / 0.05
    for k in (4, 8, 12):
        expected = math.exp(-rate) * rate**k / math.factorial(k)
        assert float((counts == k).double().mean()) == pytest.approx(expected, abs=4 * math.sqrt(expected / n))
    hit = noise.impulse_noise(x, keys(x) + torch.arange(4), 0.2)
    assert float((hit != x).float().mean()) == pytest.approx(0.2, abs=4 * math.sqrt(0.16 / n))
    assert float(hit[hit != x].mean()) == pytest.approx(0.5, abs=0.01)


def test_shot_noise_of_black_is_black_and_of_white_is_never_cut_short() -> None:
    x = torch.cat([torch.zeros(1, 1, 64, 64), torch.ones(1, 1, 64, 64)])
    found = noise.shot_noise(x, keys(x), 0.01)
    assert not found[0].any()
    assert found[1].mean() == pytest.approx(1.0, abs=4 * math.sqrt(0.01 / 4096))


@pytest.mark.parametrize("radius", [0.3, 1.0, 2.5])
def test_the_disk_has_its_sum_its_middle_and_its_second_moment(radius) -> None:
    kernel = blur.kernels(blur.disk(radius)[None], radius)[0]
    half = kernel.shape[0] // 2
    place = torch.arange(-half, half + 1, dtype=torch.float64)
    assert float(kernel.sum()) == pytest.approx(1.0, abs=1e-12)
    for side in (kernel.sum(0), kernel.sum(1)):
        assert float((side * place).sum()) == pytest.approx(0.0, abs=1e-12)
        moment = float((side * place**2).sum())
        # That of a disk is r²/4; interpolation adds E[f(1 − f)] ≤ 1/4, f the fraction of a pixel.
        assert radius**2 / 4 <= moment <= radius**2 / 4 + 0.25


def test_a_line_along_a_row_is_the_kernel_that_is_known() -> None:
    points = blur.line(2.0)[None, :, None] * torch.tensor([0.0, 1.0], dtype=torch.float64)
    kernel = blur.kernels(points, 1.0)[0]
    assert not kernel[[0, 2]].any()
    # ∫ of the hat functions over [−1, 1], divided by its length: 1/4, 1/2, 1/4.
    assert torch.allclose(kernel[1], torch.tensor([0.25, 0.5, 0.25], dtype=torch.float64), atol=1e-3)
    x = torch.zeros(1, 1, 5, 7)
    x[0, 0, 2, 3] = 1.0
    expected = torch.zeros(5, 7)
    expected[2, 2:5] = kernel[1].float()
    assert torch.allclose(blur.filtered(x, kernel[None])[0, 0], expected, atol=1e-6)


def test_the_border_is_continued_and_each_image_has_its_kernel() -> None:
    x = torch.zeros(2, 1, 4, 6)
    x[:, :, :, :1] = 1.0
    shift = torch.zeros(2, 3, 3)
    shift[0, 1, 2], shift[1, 1, 0] = 1.0, 1.0  # to the right, to the left
    moved = blur.filtered(x, shift)
    assert torch.allclose(moved[0, 0], torch.tensor([1.0, 1, 0, 0, 0, 0]).expand(4, 6), atol=1e-6)
    assert moved[1].abs().max() < 1e-6


def test_light_in_closed_form(pictures) -> None:
    assert torch.allclose(light.brightness(pictures, keys(pictures), 0.3), pictures + 0.3)
    flat = light.contrast(pictures, keys(pictures), 1.0)
    assert torch.allclose(flat, pictures.mean((1, 2, 3), keepdim=True).expand_as(flat), atol=1e-6)
    white = light.haze(torch.ones_like(pictures), keys(pictures), 0.8)
    assert torch.allclose(white, torch.ones_like(white))
    black = light.haze(torch.zeros_like(pictures), keys(pictures), 0.8)
    assert black.min() >= 0.4 - 1e-6
    assert black.max() <= 0.8 + 1e-6
    assert black[0].std() > 0.01, "uneven"


def test_larger_pixels_are_the_means_of_their_areas() -> None:
    x = torch.rand(2, 1, 8, 12, generator=torch.Generator().manual_seed(0))
    halved = coding.pixelate(x, keys(x), 0.5)
    expected = torch.nn.functional.avg_pool2d(x, 2).repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.allclose(halved, expected, atol=1e-6)
    assert torch.allclose(coding.pixelate(x, keys(x), 0.99), x.mean((2, 3), keepdim=True).expand_as(x), atol=1e-6)
    assert torch.allclose(coding.coarser(8, 5).sum(1), torch.ones(8, dtype=torch.float64))


def test_what_cannot_be_corrupted_is_refused(digits) -> None:
    with pytest.raises(UsageError, match="expected 1 to 5, got 6"):
        corrupted(digits, "haze", 6, seed=0)
    with pytest.raises(UsageError, match="at least 4×4 pixels, got 1×1"):
        corrupted(torch.rand(2, 2, 1, 1), "haze", 1, seed=0)


@pytest.mark.parametrize("shape", [(1, 3, 224, 224), (2, 1, 28, 28), (1, 4, 17, 5)])
def test_any_size_works(shape) -> None:
    x = torch.rand(*shape, generator=torch.Generator().manual_seed(1))
    for name in NAMES:
        copies = corrupted(x, name, 5, seed=0)
        assert copies.shape == x.shape
        assert not torch.equal(copies, x)
