"""Which modules are smooth elementwise activations, and which modules and operations are not twice differentiable."""

from __future__ import annotations

from typing import Final

from torch import nn

from bench.models.layers import CenteredSoftplus, Softplus

# Elementwise, twice differentiable modules; those of the softplus family have a β with 0 ≤ s' ≤ 1 and s'' ≤ β/4.
SOFTPLUS: Final = (CenteredSoftplus, Softplus, nn.Softplus)
SMOOTH: Final = (*SOFTPLUS, nn.Tanh, nn.Sigmoid, nn.LogSigmoid, nn.SiLU, nn.GELU, nn.Mish)
# Modules with a kink, or a jump, in their first derivative.
NONSMOOTH_MODULES: Final = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.RReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.Hardtanh,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Threshold,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.MaxPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
    nn.FractionalMaxPool2d,
)
# Operations of an autograd graph that are not twice differentiable everywhere.
NONSMOOTH_OPS: Final = frozenset(
    [
        "Abs",
        "AdaptiveMaxPool2D",
        "AdaptiveMaxPool3D",
        "Amax",
        "Amin",
        "Aminmax",
        "Ceil",
        "Celu",
        "Clamp",
        "ClampMax",
        "ClampMin",
        "Cummax",
        "Cummin",
        "Elu",
        "Floor",
        "Fmax",
        "Fmin",
        "Fmod",
        "Frac",
        "FractionalMaxPool2D",
        "Hardshrink",
        "Hardsigmoid",
        "Hardswish",
        "Hardtanh",
        "HuberLoss",
        "Kthvalue",
        "LeakyRelu",
        "LinalgVectorNorm",
        "Max",
        "MaxPool2DWithIndices",
        "MaxPool3DWithIndices",
        "Maximum",
        "Median",
        "Min",
        "Minimum",
        "MkldnnMaxPool2D",
        "Mode",
        "Nanmedian",
        "Norm",
        "PreluKernel",
        "Relu",
        "Remainder",
        "Round",
        "RreluWithNoise",
        "Sign",
        "SmoothL1Loss",
        "Softshrink",
        "Sort",
        "Threshold",
        "Topk",
        "Trunc",
        "Where",
    ]
)
