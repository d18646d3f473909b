"""The theorems as assertions: what must hold at every image is checked, in float64, and failures are counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.core.randomness import example_keys, normal
from bench.core.decorators import evaluation
from bench.core.errors import UsageError
from bench.numerics.autograd_graph import RecordedCalls, nonsmooth_ops, record_activations
from bench.numerics.bounds.columns import COLUMNS
from bench.numerics.derivatives import Expansion, expand
from bench.numerics.hessian_terms import error_vector
from bench.numerics.inequalities import Inequality, approximations, segment_inequalities
from bench.numerics.lanczos import Spectrum, lanczos
from bench.numerics.layer_bounds import LayerwiseHessian
from bench.numerics.lipschitz import lipschitz_graph
from bench.numerics.model_precision import differentiable_eval, micro_batch
from bench.numerics.op_norms import nonaffine_ops
from bench.numerics.segments import SegmentGrids, trace_segments
from bench.numerics.vectors import norms, require_finite, unit

SOURCE = "Srinivas et al. 2022, Propositions 1 and 2, corrected and sharpened (docs/theory.md)"
EPS0 = (0.0, 1e-6)  # without, and with the constant of the authors' code
SIDES = ("", "_worst")
SPECTRUM_STEPS, NORM_STEPS = 20, 10
START, RANDOM, PROBE = 0, 3, 4  # streams of an example's random numbers
# A self-check beyond this says that gradient and Hessian do not belong together: right sides mean nothing then.
SELF_CHECK = 0.05
# Segments hold two vectors per node: this many numbers at a time.
MEMORY = 1 << 26


@dataclass
class BoundCheck:
    """Failures per image of a group: how many, how many undecided, and what the first one was."""

    violations: Tensor
    undecided: Tensor
    words: list[str] = field(default_factory=list)

    @classmethod
    def clean(cls, like: Tensor) -> BoundCheck:
        """Return the verdict of B images without a failure."""
        return cls(torch.zeros_like(like), torch.zeros_like(like), [""] * len(like))

    def judge(self, name: str, image: Tensor, claim: Inequality, decided: Tensor | None = None) -> None:
        """Count the failures of a claim made for the given images; those not decided are counted apart."""
        fails = claim.violated
        sure = fails if decided is None else fails & decided
        self.violations.index_add_(0, image, sure.to(self.violations.dtype))
        self.undecided.index_add_(0, image, (fails & ~sure).to(self.undecided.dtype))
        for i in sure.nonzero().squeeze(1).tolist():
            place = int(image[i])
            self.words[place] = self.words[place] or (
                f"{name}: {float(claim.left[i]):.9g} > {float(claim.right[i]):.9g} "
                f"(tolerance {float(claim.tolerance[i]):.2g})"
            )


@evaluation(source=SOURCE, columns=COLUMNS, chunk=16)
def bounds(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    seed: int = 0,
    radius: Sequence[float] = (0.01, 0.1),
    max_nodes: int = 257,
) -> dict[str, Any]:
    """Assert what the theory says of every image, and measure how tight it is. Derivations: docs/theory.md.

    Along segments in one random direction and along the Hessian's top eigenvector (`_worst`): Propositions 1
    and 2, the Taylor remainder and the growth of the gradient, with the integral and with the supremum of the
    normalised curvature, with ε0 = 0 and 1e-6, and the printed forms. At the image: the exact split of the
    Hessian by activation, |uᵀHu| ≤ uᵀMu, the data-free bounds, the softmax's and the activations' own facts.

    A pass on a grid is a proof up to rounding for the supremum forms (more nodes only raise the right side); a
    failure makes the grid finer. A failure on a grid that still moves at `max_nodes` is undecided. What the
    paper states as approximations, and its Theorem 1 and Lemma 1, which are false as printed, are ratios, not
    assertions. Models with kinks (ReLU, max-pool) are not assessable: `bound_violations` is then missing.

    Args:
        model: logits (B, K) from images in [0, 1]; a float64 copy is used.
        x: images (B, C, H, W).
        y: labels (B,).
        seed: of the random directions; each image's own, whatever else is in the batch.
        radius: l2 lengths of the segments, in pixel units.
        max_nodes: nodes per segment at most.

    Raises:
        UsageError: no radius, or one that is not positive.
        BenchError: a logit, gradient or product is not finite.
    """
    radii = sorted(set(map(float, radius)))
    if not radii or not 0 < radii[0] <= radii[-1] < float("inf"):
        raise UsageError(f"bounds radius: expected positive numbers, got {list(radius)}. Give radii like 0.1.")
    each = 2 * len(radii) * max_nodes * 2 * x[0].numel()
    size = max(1, min(16, MEMORY // each))
    with differentiable_eval(model, "float64") as ready:
        parts = [
            _group(ready, a.double(), b, example_keys(a, seed), radii, max_nodes)
            for a, b in zip(x.split(size), y.split(size), strict=True)
        ]
    return {name: _join([p[name] for p in parts]) for name in parts[0]}


def _join(parts: list[Any]) -> Any:
    return torch.cat(parts) if isinstance(parts[0], Tensor) else [v for part in parts for v in part]


def _group(model: nn.Module, x: Tensor, y: Tensor, keys: Tensor, radii: list[float], max_nodes: int) -> dict[str, Any]:
    with record_activations(model) as calls:
        at = expand(model, x, y)
    reasons = nonsmooth_ops(at.logits, calls) if at.logits.requires_grad else ["no gradient"]
    if reasons:
        return _not_applicable(y, ", ".join(reasons))
    verdict = BoundCheck.clean(y)
    spectrum = lanczos(at.hvp, normal(keys, START, (x[0].numel(),), x.dtype), SPECTRUM_STEPS)
    columns = _segments(model, at, y, keys, spectrum, radii, max_nodes, verdict)
    columns |= _layer_columns(at, y, keys, spectrum, calls, verdict)
    return {
        "bound_violations": verdict.violations.double(),
        "bounds_undecided": verdict.undecided.double(),
        "bounds_applicable": torch.ones_like(y, dtype=torch.bool),
        "bounds_not_applicable": [""] * len(y),
        "bound_violation": verdict.words,
        **columns,
    }


def _not_applicable(y: Tensor, reason: str) -> dict[str, Any]:
    """Return the columns of a model without curvature: missing, never a pass."""
    missing = torch.full((len(y),), torch.nan, dtype=torch.float64, device=y.device)
    return {
        "bound_violations": missing,
        "bounds_undecided": missing,
        "bounds_applicable": torch.zeros_like(y, dtype=torch.bool),
        "bounds_not_applicable": [reason] * len(y),
        "bound_violation": [""] * len(y),
    }


# --- segments --------------------------------------------------------------------------------------------------


def _segments(
    model: nn.Module, at: Expansion, y: Tensor, keys: Tensor, spectrum: Spectrum, radii: list[float], max_nodes: int,
    verdict: BoundCheck,
) -> dict[str, Tensor]:  # fmt: skip
    """Check and measure the segments of every image: radii × (random, worst)."""
    count, size = at.gradient.shape
    random = unit(normal(keys, RANDOM, (size,), at.x.dtype))
    worst = unit(spectrum.top_vector)
    worst = torch.where((worst * at.gradient).sum(1, keepdim=True) < 0, -worst, worst)
    each = len(SIDES) * len(radii)
    image = torch.arange(count, device=y.device).repeat_interleave(each)
    direction = torch.stack([random, worst], 1).repeat(1, len(radii), 1).flatten(0, 1)
    length = torch.tensor(radii, dtype=at.x.dtype, device=y.device).repeat_interleave(len(SIDES)).repeat(count)
    start = at.x.detach().flatten(1)[image]

    def oracle(points: Tensor, segment: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return _second_order(model, points.view(-1, *at.x.shape[1:]), y[image[segment]], direction[segment])

    paths = trace_segments(oracle, start, direction, length, max_nodes=max_nodes, demand=_any_fails)
    settled = paths.settled()
    names = [f"{r:g}{side}" for r in radii for side in SIDES]
    for eps0 in EPS0:
        for name, claim in segment_inequalities(paths, eps0).items():
            for i, where in enumerate(names):
                part = slice(i, None, each)
                one = Inequality(claim.left[part], claim.right[part], claim.tolerance[part])
                verdict.judge(f"{name} (ε0 = {eps0:g}) at radius {where}", image[part], one, settled[part])
    error = paths.self_check()
    self_check = Inequality(error, torch.full_like(error, SELF_CHECK), 0 * error)
    verdict.judge("gradient against integrated Hessian", image, self_check, torch.zeros_like(settled))
    curvature = (spectrum.norm / norms(at.gradient))[image]
    values = _tightness(paths) | {f"ratio_{k}": v for k, v in approximations(paths, curvature).items()}
    columns = {f"{k}_{where}": v[i::each] for k, v in values.items() for i, where in enumerate(names)}
    return columns | {
        "bounds_nodes": paths.nodes.view(count, each).amax(1).double(),
        "bounds_unsettled": (~settled).view(count, each).sum(1).double(),
        "fundamental_theorem_error": error.view(count, each).amax(1),
    }


def _second_order(model: nn.Module, points: Tensor, y: Tensor, direction: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return f (N,), ∇f (N, d) and ∇²f·direction (N, d) at points (N, C, H, W)."""
    parts = []
    size = micro_batch(points)
    for p, label, v in zip(points.split(size), y.split(size), direction.split(size), strict=True):
        at = expand(model, p, label)
        scale = at.scale[:, None]
        product = at.hvp(v) * scale
        require_finite("product of the loss's Hessian", product)
        parts.append((at.loss, at.gradient * scale, product))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))  # type: ignore[return-value]


def _any_fails(paths: SegmentGrids) -> Tensor:
    """Return the segments on which an inequality fails, (S,): more nodes may mend it."""
    claims = [c.violated for eps0 in EPS0 for c in segment_inequalities(paths, eps0).values()]
    return torch.stack(claims).any(0)


def _tightness(paths: SegmentGrids) -> dict[str, Tensor]:
    """Return measured/bound of the inequalities on the page, ε0 = 0, (S,) each."""
    claims = segment_inequalities(paths, 0.0)
    shown = {
        "tightness_gradient": "gradient_integral",
        "tightness_gradient_printed": "gradient_printed",
        "tightness_loss": "loss_integral",
        "tightness_loss_printed": "loss_printed",
        "tightness_remainder": "remainder_integral",
    }
    return {column: claims[name].tightness for column, name in shown.items()}


# --- at the image ----------------------------------------------------------------------------------------------


def _layer_columns(
    at: Expansion, y: Tensor, keys: Tensor, spectrum: Spectrum, calls: RecordedCalls, verdict: BoundCheck
) -> dict[str, Tensor]:
    """Check and measure what holds at the image itself; empty but for the softmax where a layer is unknown."""
    layers = LayerwiseHessian.of(at, y, calls.activations)
    image = torch.arange(len(y), device=y.device)
    softmax = layers.softmax_norm()
    _judge_softmax(softmax, at, y, image, verdict)
    columns = {"tightness_softmax": softmax / (2**0.5 * norms(error_vector(at.logits, y)))}
    if nonaffine_ops(at.logits, calls):
        return columns
    start = normal(keys, START, (at.gradient.shape[1],), at.x.dtype)
    probe = unit(normal(keys, PROBE, (at.gradient.shape[1],), at.x.dtype))
    majorant = layers.majorant()
    for name, u in (("top eigenvector", unit(spectrum.top_vector)), ("random vector", probe)):
        shares, form, bound = layers.shares(u), (u * at.hvp(u)).sum(1), (u * majorant(u)).sum(1)
        noise = 1e-9 * bound + 1e-12 * spectrum.norm
        verdict.judge(f"split by layer, {name}", image, Inequality((form - shares.sum(1)).abs(), 0 * form, noise))
        verdict.judge(f"layer bound, {name}", image, Inequality(form.abs(), bound, noise))
        if name == "top eigenvector":
            columns |= _shares(shares) | {"tightness_layer": form.abs() / bound}
    elementwise, gain = layers.elementwise(start, NORM_STEPS)
    columns |= {
        "tightness_layer_matrix": spectrum.norm / lanczos(majorant, start, SPECTRUM_STEPS).norm,
        "tightness_layer_elementwise": spectrum.norm / elementwise,
    }
    _judge_activations(layers, image, verdict)
    return columns | _data_free(layers, spectrum, gain, image, verdict)


def _shares(shares: Tensor) -> dict[str, Tensor]:
    """Return every part of uᵀ∇²f u over the whole; they add up to 1 and may be negative."""
    whole = shares.sum(1, keepdim=True)
    parts = (shares / whole).unbind(1)
    return {f"curvature_share_{i}": p for i, p in enumerate(parts[:-1], 1)} | {"curvature_share_loss": parts[-1]}


def _judge_softmax(norm: Tensor, at: Expansion, y: Tensor, image: Tensor, verdict: BoundCheck) -> None:
    """‖H_z‖ ≤ √2‖p − e_y‖, ≤ 1/2 and ≤ 2(1 − p_y), all over the scale 1 − p_y."""
    for name, right in {
        "‖H_z‖ ≤ √2‖p − e_y‖": 2**0.5 * norms(error_vector(at.logits, y)),
        "‖H_z‖ ≤ 1/2": 0.5 / at.scale,
        "‖H_z‖ ≤ 2(1 − p_y)": torch.full_like(norm, 2.0),
    }.items():
        verdict.judge(name, image, Inequality(norm, right, 1e-9 * right))


def _judge_activations(layers: LayerwiseHessian, image: Tensor, verdict: BoundCheck) -> None:
    """0 ≤ s' ≤ 1, 0 ≤ s'' ≤ β/4, s'' = β(1 − s')s', and ReLU − log 2/β ≤ s0 ≤ ReLU, at every unit."""
    for a, first, second in zip(layers.activations, layers.first_derivatives, layers.second_derivatives, strict=True):
        if a.beta is None:
            continue
        z, beta = a.before.detach(), a.beta
        centred = a.value(z) - a.value(torch.zeros_like(z))
        facts = {
            "s' ≥ 0": -first,
            "s' ≤ 1": first - 1,
            "s'' ≥ 0": -second / beta,
            "s'' ≤ β/4": second / beta - 0.25,
            "s'' = β(1 − s')s'": (second / beta - (1 - first) * first).abs(),
            "s0 ≤ ReLU": beta * (centred - z.relu()),
            "s0 ≥ ReLU − log 2/β": beta * (z.relu() - centred) - math.log(2.0),
        }
        for name, excess in facts.items():
            worst = excess.flatten(1).amax(1)
            # 1e-8: the library's softplus is cut to a line at βz = 20, where s' jumps by 2e-9.
            verdict.judge(f"activation: {name}", image, Inequality(worst, 0 * worst, torch.full_like(worst, 1e-8)))


def _data_free(
    layers: LayerwiseHessian, spectrum: Spectrum, gain: list[Tensor], image: Tensor, verdict: BoundCheck
) -> dict[str, Tensor]:
    """Check ‖J‖ ≤ L, ‖∇²f‖ ≤ L²/2 + √2B and ‖∇²f‖ ≤ (√2L² + B)‖p − e_y‖; measure those and the printed ones."""
    try:
        constants = lipschitz_graph(layers.at.logits, layers.activations)
    except NotImplementedError:
        return {}
    lipschitz, curvature = layers.data_free(constants)
    scale = layers.at.scale
    error = norms(error_vector(layers.at.logits, layers.y))
    absolute, relative = lipschitz**2 / 2 + 2**0.5 * curvature, 2**0.5 * lipschitz**2 + curvature
    for name, left, right in (
        ("‖J‖ ≤ L", gain[-1], torch.full_like(error, lipschitz)),
        ("‖∇²f‖ ≤ L²/2 + √2B", spectrum.norm, absolute / scale),
        ("‖∇²f‖ ≤ (√2L² + B)‖p − e_y‖", spectrum.norm, relative * error),
    ):
        verdict.judge(name, image, Inequality(left, right, 1e-9 * right.nan_to_num(posinf=0.0)))
    here = spectrum.norm / norms(layers.at.gradient)
    printed = layers.printed(constants)
    return {
        "tightness_layer_data_free": spectrum.norm / torch.minimum(absolute / scale, relative * error),
        "ratio_theorem_1_pointwise": here / printed["pointwise"],
        "ratio_theorem_1_max": here / printed["max"],
        "ratio_lemma_1": here / printed["lemma"],
    }
