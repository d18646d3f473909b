"""The published training steps written out plainly: what `benchmarks.training` measures ours against, and checks it by.

Facts from Srinivas et al. 2022 and from what is known of the authors' code; the words and lines are ours. Everything
is a composition of library operations that autograd differentiates: host synchronisations, a third convolution for
each σ, channels doubled in every residual block, weight gradients inside attacks. `reference` puts the same plain
layers into one of our networks, which makes a step to compare gradients with.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from bench.models.layers import BatchNorm2d, CenteredSoftplus, ConvGeometry, LipschitzBatchNorm2d, SpectralNormConv2d

Penalty = Callable[[nn.Module, Tensor, Tensor], Tensor]


class CenteredActivation(nn.Module):
    """(softplus((β + 1e-3)·x) − log 2)/(β + 1e-3) by the library's softplus, cut to a line above 20 like it."""

    def __init__(self, beta0: float = 5.0) -> None:
        super().__init__()
        self.log_beta = nn.Parameter(torch.tensor(math.log(beta0)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation, elementwise, in the shape of x."""
        beta = self.log_beta.exp() + 1e-3
        return (F.softplus(beta * x) - math.log(2.0)) / beta


class StableActivation(CenteredActivation):
    """The same function by logaddexp, without the cut: autograd gives its right derivatives."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation, elementwise, in the shape of x."""
        beta = self.log_beta.exp() + 1e-3
        return (torch.logaddexp(beta * x, torch.zeros_like(x)) - math.log(2.0)) / beta


class ScaledNorm(nn.Module):
    """The library's batch norm, then its output times s·min(1/s, γ), s the least running deviation before the batch."""

    def __init__(self, channels: int, gamma0: float = 10.0) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.log_gamma = nn.Parameter(torch.tensor(math.log(gamma0)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled norm of a batch (B, C, H, W)."""
        least = (self.norm.running_var + self.norm.eps).sqrt().min()
        return self.norm(x) * least * torch.minimum(1 / least, self.log_gamma.exp())


class DividedConv(nn.Conv2d):
    """Convolution with W/σ; each iteration fetches both norms to the host, σ = ⟨u, conv(v, W)⟩ is a third convolution.

    Strided layers are measured with u of the input's size, so with a v of about twice that, unless `exact`.
    """

    def __init__(
        self, channels: int, out: int, kernel: int, *, in_size: tuple[int, int], exact: bool = False, **rest: int
    ) -> None:
        super().__init__(channels, out, kernel, bias=False, **rest)  # type: ignore[arg-type]
        self.raw_weight = nn.Parameter(self._parameters.pop("weight").detach())
        self.geometry, self.polite = ConvGeometry.of(self, in_size, authors_size=not exact), exact
        u = torch.randn(1, out, *self.geometry.out_size)
        self.register_buffer("u", u / u.norm())
        for _ in range(0 if exact else 15):
            self.iterate()

    @torch.no_grad()
    def iterate(self) -> Tensor:
        """Do one power iteration and return v (1, Cin, H, W)."""
        v = self.geometry.adjoint(self.u, self.raw_weight)
        v = v / (v.norm() if self.polite else float(v.norm()))
        u = self.geometry.forward(v, self.raw_weight)
        self.u.copy_(u / (u.norm() if self.polite else float(u.norm())))
        return v

    def forward(self, x: Tensor) -> Tensor:
        """Return the convolution of (B, Cin, H, W) by the weight over its estimated spectral norm."""
        v = self.iterate()
        sigma = (self.u.clone() * self.geometry.forward(v, self.raw_weight)).sum()
        if not self.polite and sigma < 1e-12:
            return self._conv_forward(x, self.raw_weight, None)
        return self._conv_forward(x, self.raw_weight / sigma, None)


class DoubledBlock(nn.Module):
    """Residual block by channel doubling: (x, x)/√2, two branches side by side, half the sum of the halves."""

    def __init__(
        self,
        channels: int,
        out: int,
        stride: int,
        part: Callable[..., nn.Module],
        act: Callable[[], nn.Module],
        size: int,
    ) -> None:
        super().__init__()
        self.first, self.act1 = part(channels, out, 3, stride, size), act()
        self.second = part(out, out, 3, 1, size // stride)
        same = stride == 1 and channels == out
        self.shortcut = nn.Identity() if same else part(channels, out, 1, stride, size)
        self.act2 = act()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output (B, Cout, H/stride, W/stride)."""
        left, right = (torch.cat((x, x), dim=1) / math.sqrt(2.0)).chunk(2, dim=1)
        pair = torch.cat((self.act1(self.first(left)), self.shortcut(right)), dim=1)
        left, right = pair.chunk(2, dim=1)
        pair = torch.cat((self.second(left), right), dim=1)
        left, right = pair.chunk(2, dim=1)
        return self.act2(0.5 * (left + right))


def network(low_curvature: bool, width: int, num_classes: int, size: int = 32) -> nn.Module:
    """Return the published ResNet-18 for 3-channel images, the LCNN's or the baselines'."""

    def part(channels: int, out: int, kernel: int, stride: int, size: int) -> nn.Module:
        shape = {"stride": stride, "padding": kernel // 2}
        if low_curvature:
            return nn.Sequential(DividedConv(channels, out, kernel, in_size=(size, size), **shape), ScaledNorm(out))
        conv = nn.Conv2d(channels, out, kernel, bias=False, **shape)  # type: ignore[arg-type]
        return nn.Sequential(conv, nn.BatchNorm2d(out, affine=False))

    def act() -> nn.Module:
        return CenteredActivation() if low_curvature else nn.Softplus(beta=1e3)

    layers, channels = [part(3, width, 3, 1, size), act()], width
    for stage in range(4):
        for i in range(2):
            stride = 2 if stage and not i else 1
            layers.append(DoubledBlock(channels, width << stage, stride, part, act, size))
            channels, size = width << stage, size // stride
    last = parametrizations.spectral_norm(nn.Linear(channels, num_classes))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).train()


def curvature_penalty(model: nn.Module) -> Tensor:
    """Return 1e-3·Σβ + 1e-3·Σ|log γ|, one small operation per layer."""
    total = torch.zeros((), device=next(model.parameters()).device)
    for module in model.modules():
        if isinstance(module, CenteredActivation):
            total = total + 1e-3 * module.log_beta.exp()
        elif isinstance(module, ScaledNorm):
            total = total + 1e-3 * module.log_gamma.abs()
    return total


def plain_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the mean cross-entropy, with the curvature penalty where the network has layers for it."""
    return F.cross_entropy(model(x), y) + curvature_penalty(model)


def gradient_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the loss plus 1e-3·(1e5/B)·‖∇_x mean loss‖²: an effective weight that falls with 1/B²."""
    x = x.clone().requires_grad_()
    loss = F.cross_entropy(model(x), y)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    return loss + 1e-3 * (1e5 / len(x)) * gradient.pow(2).sum() + curvature_penalty(model)


def cure_loss(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Return the loss plus 1e-3·(1e3/B)·‖∇(x + z) − ∇(x)‖², z the sign direction of length 1; logs the gradient's norm.

    The plain loss, the gradient at x and the gradient at x + z come from a forward pass each.
    """
    x = x.clone().requires_grad_()
    loss = F.cross_entropy(model(x), y)
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    gradient.norm().item()
    z = gradient.detach().sign()
    z = z / z.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    (moved,) = torch.autograd.grad(F.cross_entropy(model(x + z), y), x, create_graph=True)
    return loss + 1e-3 * (1e3 / len(x)) * (moved - gradient).pow(2).sum()


def attacked_loss(model: nn.Module, x: Tensor, y: Tensor, eps: float = 0.1, steps: int = 3) -> Tensor:
    """Return the mean cross-entropy at attacked images; each step's backward pass also makes weight gradients.

    Start in the cube of half-width eps, labels from the model, steps of 0.1·eps, all in training mode.
    """

    def into_ball(shift: Tensor) -> Tensor:
        norms = shift.flatten(1).norm(dim=1).clamp_min(1e-12)
        return shift * (eps / norms).clamp_max(1.0).view(-1, 1, 1, 1)

    with torch.no_grad():
        guess = model(x).argmax(1)
    point = x + into_ball(torch.empty_like(x).uniform_(-eps, eps))
    for _ in range(steps):
        point = point.detach().requires_grad_()
        F.cross_entropy(model(point), guess).backward()
        gradient = point.grad
        squares = gradient.square().flatten(1).sum(1).clamp_min(1e-12).view(-1, 1, 1, 1)
        point = x + into_ball(point.detach() + 0.1 * eps * gradient / squares.sqrt() - x)
    model.zero_grad()
    return F.cross_entropy(model(point), y)


LOSSES: dict[str, Penalty] = {
    "standard": plain_loss,
    "lcnn": plain_loss,
    "gradreg": gradient_loss,
    "lcnn_gradreg": gradient_loss,
    "cure": cure_loss,
    "adversarial_training": attacked_loss,
}


def step(name: str, model: nn.Module, lr: float = 0.1) -> Callable[[Tensor, Tensor], None]:
    """Return the published training step of a regime over a network of `network`."""
    free = [p for n, p in model.named_parameters() if n.endswith(("log_beta", "log_gamma"))]
    rest = [p for n, p in model.named_parameters() if not n.endswith(("log_beta", "log_gamma"))]
    groups = [{"params": rest, "weight_decay": 5e-4}] + ([{"params": free, "weight_decay": 0.0}] if free else [])
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)

    def run(x: Tensor, y: Tensor) -> None:
        optimizer.zero_grad()
        LOSSES[name](model, x, y).backward()
        optimizer.step()

    return run


def reference(model: nn.Module) -> nn.Module:
    """Return a float64 copy of one of our networks in which every layer of ours is a plain composition.

    Parameters and buffers keep their values, and the parameters their order.
    """
    twin = copy.deepcopy(model).double()
    for module in list(twin.modules()):
        for name, child in list(module.named_children()):
            if (plain := _plain_layer(child)) is not None:
                setattr(module, name, plain)
    return twin


def _plain_layer(layer: nn.Module) -> nn.Module | None:
    """Return the plain layer for one of ours in float64, sharing its tensors; None for any other."""
    if isinstance(layer, CenteredSoftplus) and layer.centered and "log_beta" in layer._parameters:
        plain: nn.Module = StableActivation()
        plain.log_beta = layer.log_beta
    elif isinstance(layer, LipschitzBatchNorm2d | BatchNorm2d):
        norm = nn.BatchNorm2d(layer.num_features, layer.eps, layer.momentum, affine=False).double()
        norm.load_state_dict({k: v for k, v in layer.state_dict().items() if k != "log_gamma"})
        plain = norm
        if isinstance(layer, LipschitzBatchNorm2d):
            plain = ScaledNorm(layer.num_features)
            plain.norm, plain.log_gamma = norm, layer.log_gamma
    elif isinstance(layer, SpectralNormConv2d):
        shape = {k: getattr(layer, k)[0] for k in ("stride", "padding", "dilation")} | {"groups": layer.groups}
        plain = DividedConv(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size[0],
            in_size=layer.geometry.in_size,
            exact=True,
            **shape,
        )
        plain.raw_weight, plain.u = layer.raw_weight, layer.u
    else:
        return None
    return plain.train(layer.training)
