"""The networks: the authors' skeleton in its literal form, shapes, layouts, widths, and wrong names."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from bench.core.errors import UsageError
from bench.models.backbones import BACKBONES, Layers, build
from bench.models.backbones.resnet import Block
from bench.models.layers import CenteredSoftplus, LipschitzBatchNorm2d, SpectralNormConv2d

LCNN = Layers(conv=SpectralNormConv2d, norm=LipschitzBatchNorm2d, activation=CenteredSoftplus)


class LiteralBlock(nn.Module):
    """The residual block as the method describes it: repeat the channels over √2, two branches, average the halves."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.parts = block

    def forward(self, x: Tensor) -> Tensor:
        doubled = torch.cat((x, x), 1) / math.sqrt(2)
        first, second = doubled.chunk(2, 1)
        branches = torch.cat((self.parts.act1(self.parts.conv1(first)), self.parts.shortcut(second)), 1)
        width = self.parts.conv2[0].in_channels
        branches = torch.cat((self.parts.conv2(branches[:, :width]), branches[:, width:]), 1)
        top, bottom = branches.chunk(2, 1)
        return self.parts.act2(0.5 * (top + bottom))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_block_equals_the_literal_skeleton(stride, training):
    torch.manual_seed(0)
    ours = Block(4, 4 * stride, stride, (6, 6), LCNN).double().train(training)
    literal = LiteralBlock(copy.deepcopy(ours)).train(training)
    results = []
    for block in (ours, literal):
        x = torch.linspace(-1, 2, 3 * 4 * 36, dtype=torch.float64).view(3, 4, 6, 6).requires_grad_()
        out = block(x)
        gradients = torch.autograd.grad((out**2).sum(), [x, *block.parameters()], allow_unused=True)
        results.append([out, *gradients])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_whole_network_equals_the_literal_skeleton():
    torch.manual_seed(0)
    ours = build("resnet18-w4", 5, (3, 8, 8), LCNN).double()
    literal = copy.deepcopy(ours)
    literal.blocks = nn.Sequential(*[LiteralBlock(b) for b in literal.blocks])
    x = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    results = []
    for model in (ours, literal):
        image = x.clone().requires_grad_()
        logits = model(image)
        loss = nn.functional.cross_entropy(logits, torch.arange(4))
        results.append([logits, *torch.autograd.grad(loss, [image, *model.parameters()], allow_unused=True)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


def test_scaled_block_is_one_lipschitz():
    # concat/√2 is an isometry, halves/2 has norm 1/√2: with parts of norm ≤ 1 the block's gain is at most 1.
    torch.manual_seed(0)
    layers = Layers(conv=SpectralNormConv2d, norm=lambda channels: nn.Identity(), activation=CenteredSoftplus)
    block = Block(2, 2, 1, (4, 4), layers).double()
    for module in (block.conv1[0], block.conv2[0]):
        module.finalize()
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64) * 5
    jacobian = torch.autograd.functional.jacobian(block.eval(), x).view(32, 32)
    assert torch.linalg.matrix_norm(jacobian, 2) <= 1
    alone = torch.autograd.functional.jacobian(lambda x: 0.5 * x / math.sqrt(2), x).view(32, 32)
    assert torch.linalg.matrix_norm(alone, 2).item() == pytest.approx(1 / (2 * math.sqrt(2)))


def test_textbook_block_is_the_plain_sum():
    layers = Layers(norm=nn.BatchNorm2d, activation=nn.ReLU, linear=nn.Linear, scaled_residual=False)
    block = Block(3, 3, 1, (5, 5), layers).eval()
    x = torch.randn(2, 3, 5, 5)
    want = torch.relu(block.conv2(torch.relu(block.conv1(x))) + x)
    assert torch.equal(block(x), want)


@pytest.mark.parametrize(
    ("backbone", "layers", "count"),
    [
        ("resnet18", Layers(), 11_210_532),  # the authors' 11,210,552 less their 20 unused γ
        ("resnet18", LCNN, 11_210_569),  # the authors' count, 17 β and 20 γ included
    ],
)
def test_paper_networks_have_the_authors_number_of_parameters(backbone, layers, count):
    assert sum(p.numel() for p in build(backbone, 100, (3, 32, 32), layers).parameters()) == count


@pytest.mark.parametrize(
    ("backbone", "activations", "convolutions"),
    [
        ("resnet18", 17, 20),
        ("resnet34", 33, 36),
        ("resnet10s2", 9, 12),
        ("vgg11", 8, 8),
        ("convnet", 3, 3),
        ("mlp", 3, 3),
    ],
)
def test_one_beta_per_activation_and_one_gamma_per_convolution(backbone, activations, convolutions):
    model = build(f"{backbone}-w2", 3, (3, 32, 32), LCNN)
    for kind, number in ((CenteredSoftplus, activations), (LipschitzBatchNorm2d, convolutions)):
        assert len([m for m in model.modules() if isinstance(m, kind)]) == number


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 8, 8), (3, 9, 7), (2, 1, 1)])
def test_spectral_norms_are_of_the_images_that_really_come(backbone, shape):
    model = build(f"{backbone}-w2", 3, shape, LCNN).eval()
    seen = {}
    for name, module in model.named_modules():
        if isinstance(module, SpectralNormConv2d):
            module.register_forward_hook(lambda m, i, o, name=name: seen.update({name: (m, i[0], o)}))
    assert model(torch.rand(2, *shape)).shape == (2, 3)
    assert seen
    for module, image, out in seen.values():
        assert module.geometry.in_size == tuple(image.shape[2:])
        assert module.geometry.out_size == tuple(out.shape[2:])


def test_vgg_has_torchvisions_convolutions():
    from torchvision.models import vgg11_bn

    theirs = [m.weight.shape for m in vgg11_bn().features if isinstance(m, nn.Conv2d)]
    model = build("vgg11", 10, (3, 32, 32))
    assert [m.weight.shape for m in model.modules() if isinstance(m, nn.Conv2d)] == theirs
    assert sum(isinstance(m, nn.MaxPool2d) for m in model.modules()) == 5


def test_width_and_depth():
    stages = [b.conv2[0].out_channels for b in build("resnet34-w6", 10, (3, 16, 16)).blocks]
    assert stages == [6] * 3 + [12] * 4 + [24] * 6 + [48] * 3
    halved = build("resnet10s2", 10, (3, 32, 32))
    assert (halved.stem[0].stride, len(halved.blocks)) == ((2, 2), 4)
    convolutions = [m for m in build("convnet", 10, (1, 8, 8)).modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [16, 32, 32]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", r"expected a backbone or NAME-wWIDTH, got 'resnet19'. Did you mean 'resnet18'\?"),
        ("resnet18-wide", r"got 'resnet18-wide'. Did you mean 'resnet18'\?"),
        ("resnet18-w0", "expected a width of at least 1, got 'resnet18-w0'. Default: resnet18-w64."),
        ("", "expected a backbone or"),
    ],
)
def test_wrong_names_are_explained(name, message):
    with pytest.raises(UsageError, match=message):
        build(name, 10, (3, 32, 32))
