"""Counted cost: closed forms of one layer, the table of the protocol, every registered defense, and foreign ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bench.core import registry
from bench.core.recipe import PAPER
from bench.training import flops
from bench.training.flops import FlopCount, count_flops
from bench.training.losses import bound_loss

NOT_BY_SHAPES = {"torchlip"}  # its library reads numbers of its weights, which tensors without data have not


def cross_entropy(model, x, y):
    return {"cross_entropy": nn.functional.cross_entropy(model(x), y)}


def counted(build, loss, shape, batch=16, epochs=1) -> FlopCount:
    return count_flops(build, loss, torch.rand(4, *shape), torch.arange(4) % 2, batch_size=batch, epochs=epochs)


def linear() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5))


def test_one_linear_layer_counts_forward_and_weight_gradient() -> None:
    """The input is no parameter, so its gradient is not computed: 2·d·k forward and 2·d·k for the weights."""
    assert counted(linear, cross_entropy, (3, 2, 2)) == FlopCount(2 * 2 * 12 * 5, "on 4 images")


def test_one_convolution_counts_two_operations_per_multiply_and_add() -> None:
    def conv() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    assert counted(conv, cross_entropy, (3, 6, 6), 8).per_image == 2 * (2 * 3 * 4 * 9 * 36)


def test_complex_products_inverses_and_fourier_transforms_count() -> None:
    """Per step: an 8×8 real transform, a complex one of its 8×5 numbers, an inverse and a product of complex 6×6."""

    def spectral(model, x, y):
        w = torch.eye(6, dtype=torch.complex64)
        half = torch.fft.rfft2(torch.ones(8, 8))
        others = torch.fft.fft2(half).real.sum() + (torch.linalg.inv(w) @ w).real.sum()
        return {"cross_entropy": nn.functional.cross_entropy(model(x), y) + 0 * others}

    once = round(2.5 * 64 * 6) + round(5 * 40 * math.log2(40)) + 4 * 2 * 6**3 + 4 * 2 * 6**3
    assert counted(linear, spectral, (3, 2, 2), batch=16).per_image == pytest.approx(2 * 2 * 12 * 5 + once / 16)


def test_an_orthogonal_convolution_costs_more_than_a_plain_one() -> None:
    """Its spectrum takes an inverse per frequency and step, its images complex products and transforms."""
    own, base = (of_defense(name, "convnet", (1, 8, 8), 64).per_image for name in ("cayley", "standard"))
    assert 1.2 < own / base < 1.6


def test_what_a_step_computes_once_is_shared_by_its_images() -> None:
    """Once a step it multiplies two 12×12 matrices, 2·12³, whatever the batch, and reads a number: no meta device."""

    def once(model, x, y):
        w = torch.eye(12)
        extra = (w @ w).sum() if float(x.mean()) > 0 else 0.0
        return {"cross_entropy": nn.functional.cross_entropy(model(x), y) + 0 * extra}

    assert counted(linear, once, (3, 2, 2), batch=32).per_image == pytest.approx(2 * 2 * 12 * 5 + 2 * 12**3 / 32)


def test_operations_that_grow_with_the_square_of_the_batch_are_counted_on_shapes() -> None:
    """All pairs of images: B² products of 12 numbers a step, each a multiply and an add."""

    def pairs(model, x, y):
        flat = x.flatten(1)
        return {"cross_entropy": nn.functional.cross_entropy(model(x), y) + 0 * (flat @ flat.T).sum()}

    found = counted(linear, pairs, (3, 2, 2), batch=32)
    assert found == FlopCount(2 * 2 * 12 * 5 + 2 * 12 * 32, "on shapes")


def test_what_cannot_be_counted_says_why() -> None:
    def broken(model, x, y):
        raise RuntimeError("needs its own hardware")

    found = counted(linear, broken, (3, 2, 2))
    assert found.per_image is None
    assert found.as_data() == {"flops_counted": "a step could not be counted: RuntimeError: needs its own hardware"}
    free = counted(
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3)), cross_entropy, (3, 2, 2)
    )
    assert free.per_image is None
    assert "no convolution" in free.how


def test_a_cost_that_depends_on_the_epoch_is_its_mean() -> None:
    class Later(nn.Module):
        """Computes its layer twice from epoch 6 on."""

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.times = nn.Linear(12, 5), 1

        def set_epoch(self, epoch: int) -> bool:
            self.times = 1 + (epoch >= 6)
            return True

        def forward(self, x):
            return sum(self.layer(x.flatten(1)) for _ in range(self.times))

    once = 2 * 2 * 12 * 5
    assert counted(Later, cross_entropy, (3, 2, 2), epochs=6).per_image == once
    assert counted(Later, cross_entropy, (3, 2, 2), epochs=10).per_image == pytest.approx(1.4 * once)


def of_defense(name: str, backbone: str, shape: tuple[int, int, int], batch: int) -> FlopCount:
    entry = registry.defenses.get(name)
    loss = bound_loss(PAPER.with_overrides(entry.recipe).loss, dict(entry.hyperparameters))
    return counted(lambda: entry.function(10, shape, backbone), loss, shape, batch, epochs=200)


@pytest.mark.parametrize(
    ("name", "ratio"),
    [("lcnn", 1.008), ("gradreg", 2.0), ("lcnn_gradreg", 2.01), ("adversarial_training", 3.0)],
)
def test_resnet18_at_batch_128_is_what_was_counted_by_hand(name: str, ratio: float) -> None:
    """A ResNet-18 step relative to Standard's, counted from the layers' shapes."""
    own, base = (of_defense(n, "resnet18", (3, 32, 32), 128).per_image for n in (name, "standard"))
    assert own / base == pytest.approx(ratio, rel=5e-3)


def test_cure_counts_its_second_gradient() -> None:
    """Two gradients with a graph: twice GradReg's cost, four times Standard's."""
    own, base = (of_defense(n, "resnet18-w8", (3, 32, 32), 128).per_image for n in ("cure", "standard"))
    assert own / base == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize("name", [entry.name for entry in registry.defenses if entry.name not in NOT_BY_SHAPES])
def test_a_few_images_tell_what_shapes_at_full_batch_size_say(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = of_defense(name, "convnet", (1, 8, 8), 64)
    assert found.how == "on 4 images"
    monkeypatch.setattr(flops, "_on_few", lambda model, **_: None)
    shapes = of_defense(name, "convnet", (1, 8, 8), 64)
    assert shapes.how == "on shapes"
    assert found.per_image == pytest.approx(shapes.per_image, rel=1e-12)


@pytest.mark.parametrize("name", sorted(NOT_BY_SHAPES))
def test_what_shapes_cannot_say_a_few_images_do(name: str) -> None:
    found = of_defense(name, "convnet", (1, 8, 8), 64)
    assert found.how == "on 4 images"
    assert found.per_image > 0
