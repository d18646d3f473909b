r"""How many Hessian-vector products, and how long, to 1 % and 0.1 % of the dataset's mean Hessian norm.

Lanczos against power iteration in its two readings, |uᵀHu| (the paper's) and ‖Hu‖, and against the released
estimator's way of computing (`released`: |uᵀHu| through torch's own second derivative of the network as it is, with
parameters that require gradients), from the same start vectors, on networks trained on real images, against float64
Lanczos run until its residual vanishes:

    python -m benchmarks.curvature                                        # digits, a minute
    python -m benchmarks.curvature --data DIR --dataset cifar10 --backbone resnet18-w8 --train-limit 4096 --limit 128 \\
        --weights FOLDER    # networks that `python -m bench run` trained, or trained here and kept for next time

The time is that of the estimators as they run (float32, TF32 off), forward pass and gradient included, the sides
taking turns in one process, median of the blocks; the last column shows that the timed run found the number it should.
Below, the cost of one product on either engine: a ratio of times is a ratio of products times a ratio of costs.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.attacks.core.randomness import Stream, example_keys, normal
from bench.core import registry
from bench.core.recipe import PAPER, Recipe
from bench.data.catalog import load
from bench.data.pixels import to_unit
from bench.data.split import Dataset
from bench.numerics.derivatives import expand
from bench.numerics.lanczos import Spectrum, lanczos
from bench.numerics.model_precision import differentiable_eval
from bench.numerics.vectors import unit
from bench.training.loop import TrainJob, train

GOALS = (0.01, 0.001)
LONGEST = 120  # products that power iteration may take
TRUTH = 80  # products of the float64 reference
MICRO_BATCH = 32
OURS, RELEASED = "Lanczos", "released |uᵀHu|"
Run = Callable[[nn.Module, Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Method:
    """One estimator: its dataset mean after 1, 2, … products, and a run of it for timing."""

    name: str
    means: list[float]
    run: Run

    def needed(self, truth: float, goal: float) -> int | None:
        """Return the products after which the mean's relative error stays within the goal; None if it does not."""
        good = [abs(m / truth - 1) <= goal for m in self.means]
        last_bad = max((i for i, g in enumerate(good) if not g), default=-1)
        return last_bad + 2 if last_bad + 1 < len(good) else None


@dataclass(frozen=True)
class Timing:
    """What a method took to reach a goal, and the relative error of the mean that the timed run found.

    `reached` is False where the longest run did not suffice; products and seconds are then that run's.
    """

    method: Method
    goal: float
    products: int
    reached: bool
    seconds: float
    error: float


def trained(defense: str, data: Dataset, backbone: str, epochs: int, kept: Path | None) -> nn.Module:
    """Train a defense for a few one-cycle epochs and return it in eval mode; read `kept` if it is there, else write."""
    entry = registry.defenses.get(defense)
    recipe = PAPER.with_overrides(
        Recipe(epochs=epochs, batch_size=64, schedule="onecycle", augment="none"), entry.recipe
    )
    job = TrainJob(entry, dict(entry.hyperparameters), recipe, backbone, len(data.classes), data.shape, 0, data.train)
    if kept and kept.exists():
        model = job.build()
        model.load_state_dict(load_file(kept))
        return model.eval()
    model = train(job, torch.device("cpu")).eval()
    if kept:
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, kept)
    return model


# --- the estimators, as they run ------------------------------------------------------------------------------------


def lanczos_run(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, products: int) -> Tensor:
    """Return Lanczos' estimate after so many products, (B,)."""
    with differentiable_eval(model) as ready:
        at = expand(ready, x, y)
        return lanczos(at.hvp, start, products).norm * at.scale


def power_run(
    model: nn.Module, x: Tensor, y: Tensor, start: Tensor, products: int, *, quadratic: bool = True
) -> Tensor:
    """Return power iteration's estimate after so many products of our engine, |uᵀHu| or ‖Hu‖, (B,)."""
    with differentiable_eval(model) as ready:
        at = expand(ready, x, y)
        u = unit(start)
        for _ in range(products - 1):
            u = unit(at.hvp(u))
        image = at.hvp(u)
        return ((u * image).sum(1).abs() if quadratic else image.norm(dim=1)) * at.scale


def norm_run(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, products: int) -> Tensor:
    """Return power iteration's ‖Hu‖ after so many products, (B,)."""
    return power_run(model, x, y, start, products, quadratic=False)


def released_run(model: nn.Module, x: Tensor, y: Tensor, start: Tensor, products: int) -> Tensor:
    """Return |uᵀHu| after so many products, computed as the paper's released code does it, (B,).

    Plain cross-entropy, one graph of the gradient, kept; the model as trained, whose parameters require gradients;
    ‖Hu‖ + 1e-6 divides.
    """
    x, u = x.clone().requires_grad_(True), unit(start).view_as(x)
    slope = _released_slope(model, x, y)
    for _ in range(products - 1):
        image = _released_product(slope, x, u)
        u = image / (image.flatten(1).norm(dim=1).view(-1, 1, 1, 1) + 1e-6)
    return (_released_product(slope, x, u) * u).flatten(1).sum(1).abs()


def _released_slope(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    loss = nn.functional.cross_entropy(model(x), y, reduction="sum")
    return torch.autograd.grad(loss, x, create_graph=True)[0]


def _released_product(slope: Tensor, x: Tensor, u: Tensor) -> Tensor:
    return torch.autograd.grad((slope * u).sum(), x, retain_graph=True)[0]


# --- truth and errors -----------------------------------------------------------------------------------------------


def micro_batches(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return all images, labels and start vectors in micro-batches."""
    parts = zip(x.split(MICRO_BATCH), y.split(MICRO_BATCH), strict=True)
    return [(a, b, normal(example_keys(a, 0), Stream.LANCZOS_START, (a[0].numel(),), a.dtype)) for a, b in parts]


def prefix(spectrum: Spectrum, products: int) -> Tensor:
    """Return what Lanczos knows after fewer products, (B,)."""
    return torch.linalg.eigvalsh(spectrum.projection[:, :products, :products]).abs().amax(1)


@dataclass(frozen=True)
class Measured:
    """One network's Hessian norms (n,), the largest relative residual behind them, and how the methods near their mean.

    `at_ten` is the 90 % point over images of each method's relative error after 10 products.
    """

    norms: Tensor
    residual: float
    methods: list[Method]
    at_ten: dict[str, float]

    @property
    def truth(self) -> float:
        """The mean Hessian norm."""
        return float(self.norms.mean())


def measure(model: nn.Module, x: Tensor, y: Tensor, longest: int) -> Measured:
    """Follow all methods in float64 over their products, against Lanczos run to the end."""
    found: list[list[Tensor]] = [[], [], []]
    truths, residuals = [], []
    with differentiable_eval(model, "float64") as ready:
        for a, b, start in micro_batches(x.double(), y):
            at = expand(ready, a, b)
            spectrum = lanczos(at.hvp, start, TRUTH)
            truths.append(spectrum.norm * at.scale)
            residuals.append(spectrum.residual / spectrum.norm)
            krylov = [prefix(spectrum, k) * at.scale for k in range(1, min(longest, spectrum.ritz.shape[1]) + 1)]
            quadratic, norms, u = [], [], unit(start)
            for _ in range(longest):
                image = at.hvp(u)
                quadratic.append((u * image).sum(1).abs() * at.scale)
                norms.append(image.norm(dim=1) * at.scale)
                u = unit(image)
            for kept, estimates in zip(found, (krylov, quadratic, norms), strict=True):
                kept.append(torch.stack(estimates))
    truth = torch.cat(truths)
    curves = [torch.cat(parts, 1) for parts in found]
    lanczos_curve, quadratic_curve, norm_curve = (c.mean(1).tolist() for c in curves)
    methods = [
        Method(OURS, lanczos_curve, lanczos_run),
        Method("power ‖Hu‖", norm_curve, norm_run),
        Method("power |uᵀHu|", quadratic_curve, power_run),
        Method(RELEASED, quadratic_curve, released_run),
    ]
    names = (OURS, "power |uᵀHu|", "power ‖Hu‖")
    at_ten = {n: float((c[9] / truth - 1).abs().quantile(0.9)) for n, c in zip(names, curves, strict=True)}
    return Measured(truth, float(torch.cat(residuals).max()), methods, at_ten)


# --- time -----------------------------------------------------------------------------------------------------------


def timed(model: nn.Module, x: Tensor, y: Tensor, measured: Measured, longest: int, blocks: int) -> list[Timing]:
    """Run every method to every goal in float32, the methods taking turns; median seconds of the blocks.

    A method that misses a goal within `longest` products is run that long all the same: a lower bound of its time.

    Returns:
        One timing per method and goal.
    """
    parts, truth = micro_batches(x, y), float(measured.norms[: len(y)].mean())
    found = []
    for goal in GOALS:
        jobs = [(m, m.needed(measured.truth, goal)) for m in measured.methods]
        seconds: list[list[float]] = [[] for _ in jobs]
        means = [0.0 for _ in jobs]
        for block in range(blocks + 1):
            for i, (method, products) in enumerate(jobs):
                started = time.perf_counter()
                values = torch.cat([method.run(model, a, b, v, products or longest) for a, b, v in parts])
                if block or not blocks:  # the first block warms up
                    seconds[i].append(time.perf_counter() - started)
                means[i] = float(values.mean())
        found += [
            Timing(m, goal, k or longest, k is not None, statistics.median(s), v / truth - 1)
            for (m, k), s, v in zip(jobs, seconds, means, strict=True)
        ]
    return found


def costs(model: nn.Module, x: Tensor, y: Tensor, repeats: int = 5) -> dict[str, float]:
    """Return seconds of one forward pass, and of one product on either engine, of one micro-batch; medians."""
    a, b, start = micro_batches(x, y)[0]
    leaf, v = a.clone().requires_grad_(True), start.view_as(a)
    slope = _released_slope(model, leaf, b)
    with differentiable_eval(model) as ready:
        at = expand(ready, a, b)
    jobs: dict[str, Callable[[], object]] = {
        "forward": torch.no_grad()(lambda: model(a)),
        OURS: lambda: at.hvp(start),
        RELEASED: lambda: _released_product(slope, leaf, v),
    }
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats + 1):
        for name, job in jobs.items():
            started = time.perf_counter()
            job()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(s[1:]) for name, s in seconds.items()}


# --- report ---------------------------------------------------------------------------------------------------------


def report(name: str, model: nn.Module, x: Tensor, y: Tensor, longest: int, blocks: int, images: int) -> None:
    """Measure one network on all images, time the methods on the first few, and print the table."""
    with torch.no_grad():
        accuracy = float((model(x).argmax(1) == y).float().mean())
    measured = measure(model, x, y, longest)
    print(
        f"\n{name}: accuracy {accuracy:.3f}, mean ‖∇²f‖ {measured.truth:.4g} "
        f"(float64, residuals below {measured.residual:.1e})"
    )
    for method in measured.methods:
        if method.name in measured.at_ten:
            print(
                f"  after 10 products, {method.name:13s} mean {method.means[9] / measured.truth - 1:+.2%}, "
                f"90 % of images within {measured.at_ten[method.name]:.2%}"
            )
    timings = timed(model, x[:images], y[:images], measured, longest, blocks)
    for goal in GOALS:
        ours = next(t.seconds for t in timings if t.goal == goal and t.method.name == OURS)
        for t in (t for t in timings if t.goal == goal):
            print(
                f"  within {goal:.1%}: {t.method.name:16s} {'' if t.reached else 'over':4s} {t.products:4d} products, "
                f"{t.seconds:8.3f} s, {t.seconds / ours:6.2f} × {OURS}, timed run {t.error:+.2%}"
            )
    cost = costs(model, x, y)
    print(
        f"  one product: {OURS} {cost[OURS] / cost['forward']:.2f} forward passes, "
        f"released {cost[RELEASED] / cost['forward']:.2f} ({cost[RELEASED] / cost[OURS]:.2f} ×)"
    )


def main() -> None:
    """Parse the command line, train, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data", type=Path, help="folder with the images")
    parser.add_argument("--backbone", default="convnet")
    parser.add_argument("--defense", action="append", help="repeatable; default: standard, lcnn")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--train-limit", type=int)
    parser.add_argument("--limit", type=int, default=64, help="test images on which products are counted")
    parser.add_argument("--longest", type=int, default=LONGEST, help="products that power iteration may take")
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--timed", type=int, default=32, help="images of them on which the methods are timed")
    parser.add_argument("--weights", type=Path, help="folder with DEFENSE.safetensors: read, or trained and kept")
    parser.add_argument("--train-only", action="store_true", help="train into --weights and stop")
    options = parser.parse_args()
    data = load(options.dataset, data_dir=options.data, train_limit=options.train_limit, limit=options.limit)
    x = to_unit(torch.tensor(data.test.images))
    y = torch.tensor(data.test.labels)
    print(
        f"{data.name}, {options.backbone}, {len(data.train.labels)} training images, {options.epochs} epochs, "
        f"{len(y)} test images; torch {torch.__version__}, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads",
        flush=True,
    )
    for defense in options.defense or ["standard", "lcnn"]:
        kept = options.weights and options.weights / f"{defense}.safetensors"
        model = trained(defense, data, options.backbone, options.epochs, kept)
        if not options.train_only:
            report(defense, model, x, y, options.longest, options.blocks, options.timed)


if __name__ == "__main__":
    main()
