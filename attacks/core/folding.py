"""The same network with fewer layers: what is linear in eval mode is folded into the convolutions before it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from bench.attacks.core.draws import RandomisedModel
from bench.attacks.core.replay import Replay, only_known_layers, record_on_gpu
from bench.core import channels_last
from bench.core.torch_state import tf32

RTOL: Final = 1e-5  # largest difference allowed, relative to the largest logit or gradient: rounding gives 1e-7 to 1e-6
MIN_PASSES: Final = 20  # passes of a batch that folding costs
PIXELS: Final = 256  # of an image from which channels last is faster on a CPU; on 8×8 it gains nothing
PROBE_IMAGES: Final = 2  # images on which the two networks are compared
HOOKS: Final = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


class _Outline(fx.Tracer):
    """Follow the containers of a network, and take every layer as a whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        childless = next(m.children(), None) is None
        layer = isinstance(m, nn.Conv2d | nn.Linear)  # also a parametrised one, which has children
        return childless or layer or super().is_leaf_module(m, module_qualified_name)


def fold_constants(model: nn.Module, x: Tensor, passes: int, *, recorded: bool = True) -> nn.Module:
    """Return a network that gives the model's logits up to rounding with fewer operations; else the model itself.

    Batch norm behind a convolution goes into its weight, and a weight that is computed at every call (spectral
    norm) is computed once. To search with; only the model itself may judge. Its hooks are the model's own, so
    whoever counts passes there counts these. The model stays as it is where its forward cannot be followed, where
    there is nothing to fold, where a layer has hooks, and where logits or gradients differ on the first images of
    x (B, C, H, W). Measured on a CPU: 1.2 to 1.5 times faster on small networks, 1.05 on a ResNet-18, where the
    convolutions are the work. For images of 16×16 or more its tensors are channels last,
    which takes 0.8 to 0.9 of the time (`python -m benchmarks.layout`).

    Args:
        model: in eval mode, without parameter gradients.
        x: the images that will be attacked, (B, C, H, W).
        passes: what the attack may ask for per image; below `MIN_PASSES` the model itself is cheaper.
        recorded: on a GPU, have shapes that keep coming recorded (`replay`): no layer may get a hook afterwards.
    """
    if passes < MIN_PASSES or isinstance(model, fx.GraphModule | RandomisedModel):
        return model
    if any(_is_watched(layer) for layer in model.modules() if layer is not model):
        return model
    with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
        try:
            fast = _fold(model)
            if fast is not None and x.device.type == "cpu" and x.ndim == 4 and x.shape[2] * x.shape[3] >= PIXELS:
                _lay_out(fast)
            if fast is None or not _agree(model, fast, x[:PROBE_IMAGES]):
                return model
        except Exception:  # foreign code runs on stand-ins for tensors and may raise anything
            return model
    for name in HOOKS:
        setattr(fast, name, getattr(model, name))
    if recorded and x.device.type == "cuda" and only_known_layers(fast):
        fast.forward = Replay(fast.forward, record_on_gpu)  # type: ignore[assignment]
    return fast


def _is_watched(module: nn.Module) -> bool:
    """Return whether the module has a hook."""
    return any(getattr(module, name) for name in (*HOOKS, "_backward_hooks", "_backward_pre_hooks"))


@torch.no_grad()
def _fold(model: nn.Module) -> fx.GraphModule | None:
    """Return the network with its norms folded and its weights computed; None if that changes nothing."""
    graph = _Outline().trace(model)
    layers = dict(model.named_modules())
    new: dict[str, nn.Module] = {}
    calls = [node for node in graph.nodes if node.op == "call_module"]
    names = [str(node.target) for node in calls]
    for node in calls:
        layer, name = layers[str(node.target)], str(node.target)
        if names.count(name) > 1:
            continue
        if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros":
            (user,) = node.users if len(node.users) == 1 else (None,)
            norm = layers.get(str(user.target)) if user and user.op == "call_module" else None
            if user and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and not norm.training:
                new[name] = FrozenLayer(layer, *_affine(norm))
                user.replace_all_uses_with(node)
                graph.erase_node(user)
            elif type(layer) is not nn.Conv2d:
                new[name] = FrozenLayer(layer)
        elif isinstance(layer, nn.Linear) and type(layer) is not nn.Linear:
            new[name] = FrozenLayer(layer)
    if not new:
        return None
    fast = fx.GraphModule(model, graph)
    for name, layer in new.items():
        parent, _, last = name.rpartition(".")
        setattr(fast.get_submodule(parent), last, layer)
    return fast.eval()


def _affine(norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Return the scale and the shift (C,) of any batch norm in eval mode: its slope, and its value at 0."""
    zero = torch.zeros(1, norm.num_features, 1, 1, device=norm.running_mean.device, requires_grad=True)  # type: ignore[union-attr]
    with torch.enable_grad():
        shift = norm(zero)
        (scale,) = torch.autograd.grad(shift.sum(), zero)
    return scale.flatten(), shift.detach().flatten()


class FrozenLayer(nn.Module):
    """A convolution or a last layer whose weight no longer changes: times a scale per output channel, plus a shift."""

    def __init__(self, layer: nn.Conv2d | nn.Linear, scale: Tensor | None = None, shift: Tensor | None = None) -> None:
        super().__init__()
        weight, bias = layer.weight.detach(), layer.bias
        if scale is not None and shift is not None:
            weight = weight * scale.view(-1, *[1] * (weight.ndim - 1))
            bias = shift if bias is None else bias * scale + shift
        self.weight, self.bias = weight, None if bias is None else bias.detach()
        conv = isinstance(layer, nn.Conv2d)
        self.crashes = isinstance(layer, nn.Conv2d) and channels_last.crashes(weight, layer.stride)
        self.settings = (layer.stride, layer.padding, layer.dilation, layer.groups) if conv else None  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output for x, (B, Cin, H, W) or (B, features)."""
        if self.settings is None:
            return F.linear(x, self.weight, self.bias)
        return F.conv2d(x, self.weight, self.bias, *self.settings)  # type: ignore[arg-type]


def _lay_out(fast: fx.GraphModule) -> None:
    """Have a folded network compute in channels last, unless torch may crash there."""
    frozen = [layer for layer in fast.modules() if isinstance(layer, FrozenLayer) and layer.settings is not None]
    if any(layer.crashes for layer in frozen):
        return
    for layer in frozen:
        layer.weight = layer.weight.contiguous(memory_format=torch.channels_last)
    fast.forward = ChannelsLast(fast.forward)  # type: ignore[assignment]


class ChannelsLast:
    """A forward whose images are channels last within, and whose gradients come back as they are everywhere else.

    Args:
        function: the forward; its convolutions and activations keep the layout.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def __call__(self, x: Tensor) -> Tensor:
        """Return the logits (B, K) of images x (B, C, H, W)."""
        logits: Tensor = self._function(_Inside.apply(x))
        return logits


class _Inside(torch.autograd.Function):
    """Images in channels last; the gradient, which comes back so, in rows again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.contiguous()


def _agree(model: nn.Module, fast: nn.Module, x: Tensor) -> bool:
    """Return whether both give the same logits and input gradients, up to rounding; these passes are not counted.

    Logits are compared with and without a graph: what was followed keeps no `torch.enable_grad()` of the forward.
    """
    with tf32(False):  # whose rounding alone is 5e-4
        (z, grad), (fast_z, fast_grad) = _answer(model, x), _answer(fast, x)
        with torch.no_grad():
            bare, fast_bare = model.forward(x), fast.forward(x)
    same = z.isfinite().all() & ((z - fast_z).abs().amax() <= RTOL * z.abs().amax())
    same &= (bare - fast_bare).abs().amax() <= RTOL * z.abs().amax()
    return bool(same & ((grad - fast_grad).abs().amax() <= 100 * RTOL * grad.abs().amax()))


def _answer(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits (B, K) and the gradient (B, …) of their weighted sum, past the model's hooks."""
    leaf = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = model.forward(leaf)
        weights = torch.linspace(-1, 1, logits.shape[1], device=x.device, dtype=logits.dtype)
        (grad,) = torch.autograd.grad((logits * weights).sum(), leaf)
    return logits.detach(), grad
