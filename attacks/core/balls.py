"""Balls and boxes: sizes, projections, unit directions and random starts, per example, for l2 and linf."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from bench.attacks.core import randomness

NORMS: Final = ("l2", "linf")
BOUNDS_MET: Final = 10  # rounds in which further pixels may meet a bound of the box, see `farthest`


def check_norm(where: str, norm: str) -> None:
    """Refuse an unknown norm.

    Raises:
        ValueError: `norm` is neither "l2" nor "linf".
    """
    if norm not in NORMS:
        raise ValueError(f"{where}: expected norm 'l2' or 'linf', got {norm!r}. Choose one of the two.")


def per_example(values: Tensor, like: Tensor) -> Tensor:
    """Give values (B,) as many trailing dimensions of length 1 as `like` (B, …) has."""
    return values.view(-1, *[1] * (like.ndim - 1))


def size(delta: Tensor, norm: str) -> Tensor:
    """Return the norm of each example's perturbation (B, …), shape (B,)."""
    flat = delta.flatten(1)
    return flat.norm(dim=1) if norm == "l2" else flat.abs().amax(1)


def project(delta: Tensor, eps: float | Tensor, norm: str) -> Tensor:
    """Return the point of the eps-ball nearest to each perturbation (B, …); `eps` may be per example (B,)."""
    radius = torch.as_tensor(eps, dtype=delta.dtype, device=delta.device)
    radius = per_example(radius.expand(len(delta)), delta)
    if norm == "linf":
        return torch.maximum(torch.minimum(delta, radius), -radius)
    length = per_example(size(delta, norm), delta)
    return torch.where(length > radius, delta * (radius / length.clamp_min(torch.finfo(delta.dtype).tiny)), delta)


def inner(x: Tensor, eps: float, norm: str) -> float:
    """Return the radius that, after x + delta is rounded to a float, still lies within eps.

    A sum in [0, 1] is off by at most a quarter of the machine epsilon per pixel: 3e-8 in float32, more than the
    tolerance of 1e-5 of the judge where eps is small.
    """
    pixels = math.prod(x.shape[1:])
    return max(eps - torch.finfo(x.dtype).eps / 4 * (math.sqrt(pixels) if norm == "l2" else 1.0), 0.0)


def into(x: Tensor, point: Tensor, eps: float, norm: str) -> Tensor:
    """Return `point` projected into the eps-ball around `x`, then clipped to the box [0, 1].

    The clip cannot leave the ball, because x lies in the box; nor can rounding, see `inner`.
    """
    return (x + project(point - x, inner(x, eps, norm), norm)).clamp_(0, 1)


def ascent(gradient: Tensor, norm: str) -> Tensor:
    """Return each example's unit direction of steepest ascent (B, …): g/‖g‖₂, or sign(g) for linf.

    A zero gradient gives a zero direction. The division by the largest entry first keeps tiny gradients
    (down to 1e-38) from vanishing when they are squared.
    """
    if norm == "linf":
        return gradient.sign()
    largest = per_example(gradient.flatten(1).abs().amax(1), gradient)
    scaled = gradient / torch.where(largest > 0, largest, 1)
    return scaled / per_example(size(scaled, norm).clamp_min(0.5), gradient)  # a non-zero one has size ≥ 1


def farthest(x: Tensor, gradient: Tensor, eps: float, norm: str) -> Tensor:
    """Return the point of the eps-ball around x, and of the box, where a loss with this gradient everywhere is largest.

    l2: clip(x + λ·gradient) on the sphere. λ grows from eps, each time to what the pixels that are not yet at a bound
    must move; the sphere is never left, and reached once no pixel meets its bound any more. A zero gradient gives x.

    Args:
        x: images (B, C, H, W) in [0, 1].
        gradient: (B, C, H, W).
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
    """
    direction = ascent(gradient, norm)
    if norm == "linf":
        return into(x, x + eps * direction, eps, norm)
    room, speed = torch.where(direction > 0, 1 - x, x).flatten(1), direction.abs().flatten(1)
    step = torch.full_like(room[:, :1], eps)
    for _ in range(BOUNDS_MET):
        bounded = step * speed >= room
        rest = (eps**2 - (room * bounded).square().sum(1, keepdim=True)).clamp_min(0)
        free = (speed * ~bounded).square().sum(1, keepdim=True)
        step = torch.where(free > 0, torch.maximum(step, (rest / free.clamp_min(1e-30)).sqrt()), step)
    return into(x, (x + per_example(step[:, 0], x) * direction).clamp(0, 1), eps, norm)


def random_perturbation(x: Tensor, keys: Tensor, stream: int, eps: float, norm: str) -> Tensor:
    """Return one perturbation per example, uniform in the eps-ball, shape of `x` (B, …).

    l2: a direction from a normal vector, a radius eps·u^{1/d}, so that volume is uniform.
    """
    shape = tuple(x.shape[1:])
    if norm == "linf":
        return eps * (2 * randomness.uniform(keys, 2 * stream, shape, x.dtype) - 1)
    direction = ascent(randomness.normal(keys, 2 * stream, shape, x.dtype), norm)
    radius = eps * randomness.uniform(keys, 2 * stream + 1, (), x.dtype) ** (1 / math.prod(shape))
    return per_example(radius, x) * direction


def sphere_perturbation(x: Tensor, keys: Tensor, stream: int, eps: float, norm: str) -> Tensor:
    """Return one perturbation per example of size exactly eps, shape of `x`: on the sphere, or a corner of the cube."""
    shape = tuple(x.shape[1:])
    if norm == "linf":
        return eps * (2 * randomness.integers(keys, 2 * stream, 2, shape) - 1).to(x.dtype)
    return eps * ascent(randomness.normal(keys, 2 * stream, shape, x.dtype), norm)
