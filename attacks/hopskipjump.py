"""HopSkipJump: a decision-based search, which sees no gradient and no logit, only the predicted class."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Final

import torch
from torch import Tensor, nn

from bench.attacks.core import balls, folding, randomness, search
from bench.attacks.core.lockstep import MAX_POINTS
from bench.attacks.core.randomness import Stream
from bench.attacks.core.trace import Trace
from bench.core.decorators import attack
from bench.core.ranges import Ge
from bench.core.torch_state import frozen_eval

STARTS: Final = 20  # uniform images tried as a start
HALVINGS: Final = 12  # of a segment that crosses the boundary
FIRST_DRAWS: Final = 40  # directions of the first estimate; √t times as many in round t
SHRINKINGS: Final = 10  # of a step that left the other class


@dataclass
class _Walk:
    """The examples still walked, and where they are.

    Attributes:
        rows: places in the batch, (n,).
        x: clean images (n, C, H, W).
        y: labels (n,).
        keys: of the random draws, (n,).
        point: misclassified points near the boundary, (n, C, H, W).
    """

    rows: Tensor
    x: Tensor
    y: Tensor
    keys: Tensor
    point: Tensor

    def keep(self, mask: Tensor) -> _Walk:
        """Return the walk of the examples of a mask (n,)."""
        return _Walk(self.rows[mask], self.x[mask], self.y[mask], self.keys[mask], self.point[mask])


@attack(
    source="Chen, Jordan, Wainwright 2020, 'HopSkipJumpAttack', algorithm 2",
    version=2,
    gradients=False,
)
def hopskipjump(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: Annotated[float, Ge(0)],
    norm: str = "l2",
    seed: int = 0,
    n_queries: Annotated[int, Ge(1)] = 1000,
    trace: Trace | None = None,
) -> Tensor:
    """Walk along the decision boundary towards the image, by decisions alone; return the nearest points.

    From the nearest of 20 misclassified uniform images: bisect towards x; estimate the boundary's normal as the mean
    of u·(φ(x_t + δu) − φ̄) over Gaussian directions u, φ = ±1 the decision; step along it by ‖x_t − x‖/√t, halved until
    misclassified; repeat. What differs from the paper: draws belong to the example; a walk ends once it is within eps;
    the last point is clipped into the ball, where the judge decides.

    Args:
        model: network in eval mode, images to logits (B, K), of which only the largest is looked at.
        x: clean images (B, C, H, W) in [0, 1].
        y: their true labels, (B,).
        eps: radius of the ball, ≥ 0.
        norm: "l2" or "linf".
        seed: of starts and directions, which belong to the example.
        n_queries: decisions asked for per example, about; no new round begins beyond.
        trace: receives `margin` (B,), the margin loss of the returned points.

    Returns:
        The nearest misclassified points, projected into the ball, (B, C, H, W); x where none was found.

    Raises:
        ValueError: unknown norm.
        FloatingPointError: NaN or infinity in logits.
    """
    balls.check_norm("hopskipjump", norm)
    keys = randomness.example_keys(x, seed)
    with frozen_eval(model), torch.no_grad():
        fast = folding.fold_constants(model, x, n_queries)
        best = search.Best("hopskipjump", model, x, y)
        rows = best.active()
        if len(rows) and eps > 0:
            walk = _start(fast, _Walk(rows, x[rows], y[rows], keys[rows], x[rows]), best)
            _walk(fast, walk, best, eps, norm, n_queries - STARTS)
    if trace is not None:
        trace["margin"] = best.margin
    return best.finalize()


def _wrong(model: nn.Module, points: Tensor, y: Tensor, best: search.Best, rows: Tensor) -> Tensor:
    """Return which points (n, …) are misclassified, bool (n,)."""
    logits = (
        torch.cat([search.predict(model, part) for part in points.split(MAX_POINTS)])
        if len(points)
        else points.new_zeros(0, 1)
    )
    best.flag_nonfinite(rows, logits)
    return logits.argmax(1) != y


def _start(model: nn.Module, walk: _Walk, best: search.Best) -> _Walk:
    """Return the walk of the examples that have a misclassified uniform image, at the nearest of theirs."""
    nearest = torch.full((len(walk.rows),), torch.inf, dtype=walk.x.dtype, device=walk.x.device)
    for number in range(STARTS):
        shape = tuple(walk.x.shape[1:])
        points = randomness.uniform(walk.keys, Stream.DECISION_START + number, shape, walk.x.dtype)
        distance = (points - walk.x).flatten(1).norm(dim=1)
        better = _wrong(model, points, walk.y, best, walk.rows) & (distance < nearest)
        walk.point = torch.where(balls.per_example(better, points), points, walk.point)
        nearest = torch.where(better, distance, nearest)
    return walk.keep(nearest.isfinite())


def _walk(model: nn.Module, walk: _Walk, best: search.Best, eps: float, norm: str, queries: int) -> None:
    """Walk until the queries are spent or every example is within eps; `best` gets the points inside the ball."""
    size, stream = math.prod(walk.x.shape[1:]), int(Stream.DECISION_DIRECTION)
    walk.point = _to_boundary(model, walk, walk.point, best, norm)
    step, spent = 1, HALVINGS
    while len(walk.rows):
        inside = balls.into(walk.x, walk.point, eps, norm)
        best.update(walk.rows, inside, search.predict(model, inside))
        draws = int(FIRST_DRAWS * math.sqrt(step))
        spent += draws + HALVINGS + SHRINKINGS
        walk = walk.keep(~best.stopped[walk.rows])
        if spent > queries or not len(walk.rows):
            return
        distance = balls.size(walk.point - walk.x, norm)
        reach = distance / size if step > 1 else distance / math.sqrt(size)
        normal = _normal(model, walk, best, draws, stream, (reach * math.sqrt(size)).clamp_min(1e-4))
        stream += draws
        moved = _step(model, walk, best, balls.ascent(normal, norm), distance / math.sqrt(step))
        walk.point = _to_boundary(model, walk, moved, best, norm)
        step += 1


def _normal(model: nn.Module, walk: _Walk, best: search.Best, draws: int, stream: int, radius: Tensor) -> Tensor:
    """Return the estimate of the boundary's normal at each point, (n, C, H, W), towards the misclassified side.

    Args:
        model: the network.
        walk: the examples.
        best: it notes what is not finite.
        draws: directions per example.
        stream: number of the first direction's draws.
        radius: l2 length of a probe, (n,).
    """
    shape = tuple(walk.x.shape[1:])
    total, decisions, signed = torch.zeros_like(walk.x), torch.zeros_like(radius), torch.zeros_like(walk.x)
    for number in range(draws):
        u = balls.ascent(randomness.normal(walk.keys, stream + number, shape, walk.x.dtype), "l2")
        probe = (walk.point + balls.per_example(radius, u) * u).clamp(0, 1)
        u = probe - walk.point
        phi = 2 * _wrong(model, probe, walk.y, best, walk.rows).to(radius.dtype) - 1
        total, decisions, signed = total + u, decisions + phi, signed + balls.per_example(phi, u) * u
    mean = decisions / draws
    one_sided = mean.abs() == 1  # all probes on one side: their mean direction is all that is known
    centred = signed - balls.per_example(mean, signed) * total
    return torch.where(balls.per_example(one_sided, centred), balls.per_example(mean, total) * total, centred)


def _step(model: nn.Module, walk: _Walk, best: search.Best, direction: Tensor, length: Tensor) -> Tensor:
    """Return each point moved along a direction (n, C, H, W), by a length (n,) halved until it is misclassified."""
    moved = walk.point.clone()
    todo = torch.ones_like(length, dtype=torch.bool)
    for _ in range(SHRINKINGS):
        trial = (walk.point + balls.per_example(length, direction) * direction).clamp(0, 1)
        wrong = _wrong(model, trial, walk.y, best, walk.rows) & todo
        moved = torch.where(balls.per_example(wrong, moved), trial, moved)
        todo, length = todo & ~wrong, length / 2
    return moved


def _to_boundary(model: nn.Module, walk: _Walk, point: Tensor, best: search.Best, norm: str) -> Tensor:
    """Return the misclassified point nearest to x on each segment (l2) or path of clips (linf) from x to `point`."""
    size = balls.size(point - walk.x, norm)
    low, high = torch.zeros_like(size), size
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        trial = walk.x + balls.project(point - walk.x, middle, norm)
        wrong = _wrong(model, trial, walk.y, best, walk.rows)
        low, high = torch.where(wrong, low, middle), torch.where(wrong, middle, high)
    there = walk.x + balls.project(point - walk.x, high, norm)
    kept = _wrong(model, there, walk.y, best, walk.rows)  # rounding may have moved it across
    return torch.where(balls.per_example(kept, point), there, point)
