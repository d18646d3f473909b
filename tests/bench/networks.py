"""Small networks with real layers, images, and dense float64 derivatives to hold everything against."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from bench.models.backbones import Layers, build
from bench.models.layers import CenteredSoftplus, LipschitzBatchNorm2d, Softplus, SpectralNormConv2d

LCNN = Layers(conv=SpectralNormConv2d, norm=LipschitzBatchNorm2d, activation=CenteredSoftplus)
KINDS = {
    "lcnn": ("convnet-w4", LCNN),
    "softplus": ("convnet-w4", Layers(activation=lambda: Softplus(10.0))),
    "standard": ("convnet-w4", Layers()),
    "residual": ("resnet18-w2", LCNN),
}


def settled(kind: str, classes: int = 5, side: int = 6) -> nn.Module:
    """Build a network, let it see a few batches, and sharpen its last layer so that losses are not all alike."""
    torch.manual_seed(0)
    backbone, layers = KINDS[kind]
    model = build(backbone, classes, (1, side, side), layers)
    for _ in range(20):
        model(torch.rand(32, 1, side, side))
    model.eval()
    for module in model.modules():
        if hasattr(module, "finalize"):
            module.finalize()
    return nn.Sequential(model, Scale(6.0)).eval()


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class Dense:
    """The loss of one image in float64: value, gradient, Hessian and its two terms, by torch's own functions."""

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        double, shape = copy.deepcopy(model).double(), (1, *x.shape)
        self.x = x.double().flatten()

        def logits(v: Tensor) -> Tensor:
            return double(v.view(shape))[0]

        def loss(v: Tensor) -> Tensor:
            return nn.functional.cross_entropy(logits(v)[None], y[None])

        self.gradient = torch.autograd.functional.jacobian(loss, self.x)
        self.hessian = torch.autograd.functional.hessian(loss, self.x)
        p = logits(self.x).detach().softmax(0)
        self.error = p - nn.functional.one_hot(y, len(p))
        self.jacobian = torch.autograd.functional.jacobian(logits, self.x)
        self.logit_term = self.jacobian.T @ (p.diag() - p.outer(p)) @ self.jacobian
        self.network_term = torch.autograd.functional.hessian(lambda v: logits(v) @ self.error, self.x)

    @staticmethod
    def norm(matrix: Tensor) -> float:
        """Return the spectral norm of a symmetric matrix."""
        return float(torch.linalg.eigvalsh((matrix + matrix.T) / 2).abs().max())
