"""How many Hessian-vector products, and how long, to 1 % and 0.1 % of the dataset's mean Hessian norm.

Lanczos against power iteration in its two readings, |uᵀHu| (the paper's) and ‖Hu‖, from the same start vectors, on
networks trained here, against float64 Lanczos run until its residual vanishes:

    python -m benchmarks.curvature                                        # digits, a minute
    python -m benchmarks.curvature --data DIR --dataset cifar10 --backbone resnet18-w16 --train-limit 5000

The time is that of the estimators as they run (float32, TF32 off), the sides taking turns in one process, median of
the blocks; the last column shows that the timed run found the number it should.
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
from torch import Tensor, nn

from bench.attacks.randomness import example_keys, normal
from bench.batches import to_unit
from bench.data import Dataset, load
from bench.evaluations._geometry import Expansion, expand, prepared, unit
from bench.evaluations._lanczos import Spectrum, lanczos
from bench.models import registry
from bench.records import PAPER, Recipe
from bench.train import TrainJob, train

GOALS = (0.01, 0.001)
LONGEST = 120  # products that power iteration may take
TRUTH = 80  # products of the float64 reference
MICRO_BATCH = 32


@dataclass(frozen=True)
class Method:
    """One estimator: its dataset mean after 1, 2, … products, and a run of it for timing."""

    name: str
    means: list[float]
    run: Callable[[Expansion, Tensor, int], Tensor]

    def needed(self, truth: float, goal: float) -> int | None:
        """Return the products after which the mean's relative error stays within the goal; None if it does not."""
        good = [abs(m / truth - 1) <= goal for m in self.means]
        last_bad = max((i for i, g in enumerate(good) if not g), default=-1)
        return last_bad + 2 if last_bad + 1 < len(good) else None


def trained(defense: str, data: Dataset, backbone: str, epochs: int) -> nn.Module:
    """Train a defense for a few one-cycle epochs and return it in eval mode."""
    entry = registry.defenses.get(defense)
    recipe = entry.recipe.over(Recipe(epochs=epochs, batch_size=64, schedule="onecycle", augment="none").over(PAPER))
    job = TrainJob(entry, dict(entry.hyperparameters), recipe, backbone, len(data.classes), data.shape, 0, data.train)
    return train(job, torch.device("cpu")).eval()


def lanczos_run(at: Expansion, start: Tensor, products: int) -> Tensor:
    """Return Lanczos' estimate after so many products, (B,)."""
    return lanczos(at.hvp, start, products).norm * at.scale


def power_run(at: Expansion, start: Tensor, products: int, *, quadratic: bool = True) -> Tensor:
    """Return power iteration's estimate after so many products, |uᵀHu| or ‖Hu‖, (B,)."""
    u = unit(start)
    for i in range(products):
        image = at.hvp(u)
        if i == products - 1:
            return ((u * image).sum(1).abs() if quadratic else image.norm(dim=1)) * at.scale
        u = unit(image)
    raise ValueError("at least one product")


def norm_run(at: Expansion, start: Tensor, products: int) -> Tensor:
    """Return power iteration's ‖Hu‖ after so many products, (B,)."""
    return power_run(at, start, products, quadratic=False)


def curves(at: Expansion, start: Tensor, longest: int) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Return the estimates of Lanczos, |uᵀHu| and ‖Hu‖ after 1, 2, … products, (B,) each."""
    spectrum = lanczos(at.hvp, start, min(TRUTH, longest))
    size = spectrum.ritz.shape[1]
    krylov = [prefix(spectrum, k) * at.scale for k in range(1, size + 1)]
    quadratic, norms, u = [], [], unit(start)
    for _ in range(longest):
        image = at.hvp(u)
        quadratic.append((u * image).sum(1).abs() * at.scale)
        norms.append(image.norm(dim=1) * at.scale)
        u = unit(image)
    return krylov, quadratic, norms


def prefix(spectrum: Spectrum, products: int) -> Tensor:
    """Return what Lanczos knows after fewer products, (B,)."""
    return torch.linalg.eigvalsh(spectrum.projection[:, :products, :products]).abs().amax(1)


def batches(model: nn.Module, x: Tensor, y: Tensor) -> list[tuple[Expansion, Tensor]]:
    """Return the expansions of all images, with their start vectors, in micro-batches."""
    return [
        (expand(model, a, b), normal(example_keys(a, 0), 0, (a[0].numel(),), a.dtype))
        for a, b in zip(x.split(MICRO_BATCH), y.split(MICRO_BATCH), strict=True)
    ]


def measure(
    model: nn.Module, x: Tensor, y: Tensor, longest: int
) -> tuple[float, float, list[Method], dict[str, float]]:
    """Return the true mean, the largest relative residual behind it, the methods, and their errors at 10 products.

    The last is the 90 % point over images of each method's relative error.
    """
    found: list[list[Tensor]] = [[], [], []]
    truths, residuals = [], []
    with prepared(model, "float64") as ready:
        for at, start in batches(ready, x.double(), y):
            spectrum = lanczos(at.hvp, start, TRUTH)
            truths.append(spectrum.norm * at.scale)
            residuals.append(spectrum.residual / spectrum.norm)
            for kept, estimates in zip(found, curves(at, start, longest), strict=True):
                kept.append(torch.stack(estimates))
    truth = torch.cat(truths)
    names = ("Lanczos", "power |uᵀHu|", "power ‖Hu‖")
    runs = (lanczos_run, power_run, norm_run)
    joined = [torch.cat(parts, 1) for parts in found]
    methods = [Method(n, j.mean(1).tolist(), r) for n, j, r in zip(names, joined, runs, strict=True)]
    at_ten = {n: float((j[9] / truth - 1).abs().quantile(0.9)) for n, j in zip(names, joined, strict=True)}
    return float(truth.mean()), float(torch.cat(residuals).max()), methods, at_ten


def timed(
    model: nn.Module, x: Tensor, y: Tensor, jobs: list[tuple[Method, int]], blocks: int
) -> list[tuple[float, float]]:
    """Return seconds (median of the blocks) and the mean found, of every job, in float32, the jobs taking turns."""
    seconds: list[list[float]] = [[] for _ in jobs]
    means = [0.0 for _ in jobs]
    with prepared(model) as ready:
        parts = batches(ready, x, y)
        for block in range(blocks + 1):
            for i, (method, products) in enumerate(jobs):
                started = time.perf_counter()
                values = torch.cat([method.run(at, start, products) for at, start in parts])
                if block:  # the first block warms up
                    seconds[i].append(time.perf_counter() - started)
                means[i] = float(values.mean())
    return [(statistics.median(s), m) for s, m in zip(seconds, means, strict=True)]


def report(name: str, model: nn.Module, x: Tensor, y: Tensor, longest: int, blocks: int) -> None:
    """Measure one network and print its table."""
    accuracy = float((model(x).argmax(1) == y).float().mean())
    truth, residual, methods, at_ten = measure(model, x, y, longest)
    print(f"\n{name}: accuracy {accuracy:.3f}, mean ‖∇²f‖ {truth:.4g} (float64, residuals below {residual:.1e})")
    for method in methods:
        bias = method.means[9] / truth - 1
        print(
            f"  after 10 products, {method.name:13s} mean {bias:+.2%}, 90 % of images within {at_ten[method.name]:.2%}"
        )
    jobs = [(m, g, k) for g in GOALS for m in methods if (k := m.needed(truth, g)) is not None]
    results = timed(model, x, y, [(m, k) for m, _, k in jobs], blocks)
    for goal in GOALS:
        fastest = next((s for (m, g, _), (s, _) in zip(jobs, results, strict=True) if g == goal), float("nan"))
        for method in methods:
            row = [(k, s, v) for (m, g, k), (s, v) in zip(jobs, results, strict=True) if m is method and g == goal]
            if not row:
                print(f"  within {goal:.1%}: {method.name:13s} more than {longest} products")
                continue
            products, seconds, value = row[0]
            print(
                f"  within {goal:.1%}: {method.name:13s} {products:4d} products, {seconds:8.3f} s, "
                f"{seconds / fastest:5.2f} × Lanczos, timed run {value / truth - 1:+.2%}"
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
    parser.add_argument("--limit", type=int, default=64, help="test images measured")
    parser.add_argument("--longest", type=int, default=LONGEST)
    parser.add_argument("--blocks", type=int, default=5)
    options = parser.parse_args()
    data = load(options.dataset, data_dir=options.data, train_limit=options.train_limit, limit=options.limit)
    x = to_unit(torch.tensor(data.test.images))
    y = torch.tensor(data.test.labels)
    print(
        f"{data.name}, {options.backbone}, {len(data.train.labels)} training images, {options.epochs} epochs, "
        f"{len(y)} test images; torch {torch.__version__}, {platform.processor() or platform.machine()}, "
        f"{torch.get_num_threads()} threads"
    )
    for defense in options.defense or ["standard", "lcnn"]:
        model = trained(defense, data, options.backbone, options.epochs)
        report(defense, model, x, y, options.longest, options.blocks)


if __name__ == "__main__":
    main()
