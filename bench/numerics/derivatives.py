"""First and second derivatives of the per-example loss, batch-wise: what the geometry evaluations share.

The loss is cross-entropy at the true label, written f = softplus(u) with u = logsumexp_{k≠y}(z_k − z_y), whose
gradient keeps its relative accuracy where p_y rounds to 1. In eval mode the sum of the losses of a batch has a
block-diagonal Hessian, so one Hessian-vector product of the sum is one product per example.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core.errors import BenchError, UsageError
from bench.numerics.hvp_ops import twice_differentiable

Product = Callable[[Tensor], Tensor]
DTYPES = {"float32": torch.float32, "float64": torch.float64}


@contextmanager
def prepared(model: nn.Module, precision: str = "float32") -> Iterator[nn.Module]:
    """Yield the model in eval mode, without parameter gradients, TF32 off, autograd on; leave it as found.

    Args:
        model: logits (B, K) from images (B, C, H, W).
        precision: "float32" works on the model itself; "float64" on a deep copy in double precision.

    Raises:
        UsageError: another precision.
    """
    if precision not in DTYPES:
        raise UsageError(f"precision: expected float32 or float64, got {precision!r}. Choose one of the two.")
    if precision == "float64":
        model = _double(model)
    modes = [(m, m.training) for m in model.modules()]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    with ExitStack() as stack:
        stack.enter_context(_without_tf32())
        stack.enter_context(torch.enable_grad())
        try:
            model.eval()
            for p, _ in wanted:
                p.requires_grad_(False)
            yield model
        finally:
            for p, flag in wanted:
                p.requires_grad_(flag)
            for m, flag in modes:
                m.training = flag


def _double(model: nn.Module) -> nn.Module:
    """Return a copy of the model in double precision.

    Raises:
        BenchError: the model cannot be copied.
    """
    try:
        return copy.deepcopy(model).double()
    except (RuntimeError, TypeError) as error:
        raise BenchError(
            f"model {type(model).__name__}: expected one that copy.deepcopy can copy, for float64, got {error}. "
            "Keep no tensors with history as attributes."
        ) from error


def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return the logits (B, K) of x (B, C, H, W), in the dtype of x.

    Raises:
        BenchError: the model computes in another dtype somewhere, so that a float64 check would see rounding.
    """
    found: object
    try:
        logits = model(x)
        found = logits.dtype
    except RuntimeError as error:
        if x.dtype != torch.float64 or not any(word in str(error) for word in ("dtype", "Double", "scalar type")):
            raise
        logits, found = None, error
    if logits is None or logits.dtype != x.dtype:
        raise BenchError(
            f"model {type(model).__name__}: expected {x.dtype} throughout a copy of that dtype, got {found}. "
            "Keep constants in buffers and cast nothing inside forward."
        )
    return logits


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Switch TF32 off: it moves ‖H‖ of a standard net by 15 % (median), and cuDNN's default is on."""
    cudnn: Any = torch.backends.cudnn
    places: list[Any] = [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn]
    saved = [p.fp32_precision for p in places]
    try:
        for p in places:
            p.fp32_precision = "ieee"
        yield
    finally:
        for p, value in zip(places, saved, strict=True):
            p.fp32_precision = value


def micro_batch(x: Tensor) -> int:
    """Return how many images' second-order graphs to hold at once, by the image's size.

    ResNet-18 keeps about 30 MB per image of 3×32×32; small networks on small images want large batches.
    """
    size = max(32, min(256, 100_000 // x[0].numel()))
    return 4 * size if x.is_cuda else size


def log_odds_against(logits: Tensor, y: Tensor) -> Tensor:
    """Return u = logsumexp_{k≠y}(z_k − z_y) of logits (B, K): log of (1 − p_y)/p_y, shape (B,)."""
    others = torch.arange(logits.shape[1] - 1, device=logits.device)
    others = others + (others >= y[:, None])
    return (logits.gather(1, others) - logits.gather(1, y[:, None])).logsumexp(1)


def loss_per_example(logits: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy −log p_y of logits (B, K) at labels y (B,), shape (B,).

    torch's own threshold of 20 would drop a second derivative of 2e-9; exp(80) still fits float32.
    """
    return F.softplus(log_odds_against(logits, y), threshold=80.0)


def differentiate(output: Tensor, x: Tensor, weight: Tensor, *, graph: bool = False) -> Tensor:
    """Return Σ weight·∂output/∂x, shaped like x; zeros where output does not depend on x. Keeps the graph."""
    if not output.requires_grad:
        return torch.zeros_like(x)
    return torch.autograd.grad(
        output, x, weight, create_graph=graph, retain_graph=True, allow_unused=True, materialize_grads=True
    )[0]


@dataclass(frozen=True)
class Expansion:
    """The loss around a batch, to second order, with the graph kept for Hessian-vector products.

    Derivatives are those of f/scale, scale = 1 − p_y: neither they nor their squares underflow where the model
    is confident. d = C·H·W.

    Attributes:
        x: leaf that requires grad, (B, C, H, W).
        logits: (B, K), with its graph.
        loss: f, (B,), detached.
        scale: 1 − p_y, (B,), detached.
        slope: ∇(f/scale), (B, C, H, W), with its graph.
    """

    x: Tensor
    logits: Tensor
    loss: Tensor
    scale: Tensor
    slope: Tensor

    @property
    def gradient(self) -> Tensor:
        """∇f/scale, (B, d), detached."""
        return self.slope.detach().flatten(1)

    def hvp(self, v: Tensor) -> Tensor:
        """Return ∇²f·v/scale for v (B, d), example by example, (B, d)."""
        return differentiate(self.slope, self.x, v.view_as(self.x)).flatten(1)


def expand(model: nn.Module, x: Tensor, y: Tensor, *, second_order: bool = True) -> Expansion:
    """Return the loss's expansion at x (B, C, H, W), labels y (B,), in the dtype of x.

    Raises:
        BenchError: a logit or a gradient is not finite, or the model computes in another dtype.
    """
    x = x.detach().clone().requires_grad_(True)
    with twice_differentiable(model) if second_order else nullcontext():
        logits = logits_of(model, x)
    u = log_odds_against(logits, y)
    scale = u.detach().sigmoid().clamp_min(1e-30)
    loss = F.softplus(u, threshold=80.0)
    slope = differentiate(loss, x, 1 / scale, graph=second_order)
    demand_finite("gradient of the loss", slope)
    return Expansion(x, logits, loss.detach(), scale, slope)


def wrong_classes(logits: Tensor, y: Tensor) -> Tensor:
    """Return p_k/(1 − p_y) for k ≠ y and 0 at y: how the missing probability is spread, (B, K)."""
    return logits.detach().scatter(1, y[:, None], -torch.inf).softmax(1)


def error_vector(logits: Tensor, y: Tensor) -> Tensor:
    """Return (p − e_y)/(1 − p_y), the loss's gradient in the logits over its scale, (B, K)."""
    return wrong_classes(logits, y).scatter(1, y[:, None], -1.0)


def softmax_product(logits: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """Return (diag(p) − ppᵀ)w/(1 − p_y) for w (B, K), without cancellation where p_y is near 1, (B, K)."""
    z, r = logits.detach(), wrong_classes(logits, y)
    p = z.softmax(1)
    product = r * (w - (p * w).sum(1, keepdim=True))
    at_label = p.gather(1, y[:, None]) * (w.gather(1, y[:, None]) - (r * w).sum(1, keepdim=True))
    return product.scatter(1, y[:, None], at_label)


def pushforward(output: Tensor, x: Tensor) -> Product:
    """Return v (B, d) ↦ (∂output/∂x)v for an output (B, …): two reverse passes, no forward mode needed."""
    dummy = torch.zeros_like(output, requires_grad=True)
    pullback = differentiate(output, x, dummy, graph=True)
    return lambda v: differentiate(pullback, dummy, v.view_as(x))


def logit_term(at: Expansion, y: Tensor) -> Product:
    """Return v ↦ JᵀH_zJv/scale with J = ∂logits/∂x: what the loss's own curvature contributes to ∇²f."""
    push = pushforward(at.logits, at.x)

    def product(v: Tensor) -> Tensor:
        return differentiate(at.logits, at.x, softmax_product(at.logits, y, push(v))).flatten(1)

    return product


def network_term(at: Expansion, y: Tensor) -> Product:
    """Return v ↦ Σ_k q_k∇²z_k v/scale with q = p − e_y: what the network's curvature contributes to ∇²f."""
    slope = differentiate(at.logits, at.x, error_vector(at.logits, y), graph=True)
    return lambda v: differentiate(slope, at.x, v.view_as(at.x)).flatten(1)


def demand_finite(what: str, values: Tensor) -> None:
    """Refuse NaN and infinity, which later maxima and means would hide.

    Raises:
        BenchError: naming the first example of the batch (B, …) that is not finite.
    """
    bad = ~values.detach().isfinite().flatten(1).all(1)
    if bad.any():
        first = int(bad.nonzero()[0])
        raise BenchError(
            f"{what}: expected finite numbers, got NaN or infinity for example {first} of the batch. "
            f"Look at the model's logits there."
        )


def norms(v: Tensor) -> Tensor:
    """Return the Euclidean norm of each row of v (B, …), float64 (B,)."""
    return torch.linalg.vector_norm(v.detach().flatten(1), dim=1, dtype=torch.float64)


def unit(v: Tensor) -> Tensor:
    """Return v (B, …) with every row divided by its norm; zero rows stay zero."""
    length = torch.linalg.vector_norm(v.flatten(1), dim=1)
    return v / torch.where(length > 0, length, 1).view(-1, *[1] * (v.ndim - 1))
