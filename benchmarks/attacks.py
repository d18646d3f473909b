"""Our AutoAttack against the official package's, and our PGD against each library's: time, passes, verdicts.

The two sides take turns in one process; the time is CPU time (on a GPU: wall time between synchronisations), the
ratio is the median over blocks of theirs / ours. The networks: a robust and a non-robust convolutional net trained
here on digits, and the latter with its logits times 30 (saturated); the official package's own example, a ResNet-18
for CIFAR-10, at a budget that images survive and at one that they do not. Every example on which the verdicts of the
two AutoAttacks differ is listed, with the other seeds that would have broken it.

What the ratios are made of. On a net that breaks, ours stops at an example's first adversarial point, the others go
on to the last step. On a robust one the passes are the same, and AutoAttack gains by folded norms, targets side by
side and windows drawn ahead; PGD then gains nothing but stops: both sides compute the same gradients, and our
wrappers already spare the libraries the gradients of the weights. On small nets Square takes half of the time, and
an activation as long as a convolution; on the ResNet-18 the convolutions are the work, and folding gives 1.05.

    python -m benchmarks.attacks                              # a quarter of an hour; the ResNet on foolbox's samples
    python -m benchmarks.attacks --data DIR --big-images 4    # CIFAR-10 images from DIR; four minutes per survivor
    python -m benchmarks.attacks --big-images 0 --images 200  # the digits nets only
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.autoattack import autoattack
from bench.attacks.core.balls import size
from bench.attacks.peers import cleverhans, foolbox, pyautoattack, torchattacks
from bench.attacks.pgd import pgd
from bench.core import registry
from bench.core.recipe import PAPER, Recipe
from bench.core.torch_state import full_precision
from bench.data.catalog import load
from bench.data.pixels import to_unit
from bench.data.split import Dataset
from bench.measuring.passes import counted
from bench.running.machine import keep_memory
from bench.training.loop import TrainJob, train

LIBRARIES: dict[str, ModuleType] = {"cleverhans": cleverhans, "foolbox": foolbox, "torchattacks": torchattacks}


Settings = Mapping[str, Any]  # keyword arguments of an attack or a defense
SEEDS = [1, 2, 3]  # with which an attack that missed an image of another, with seed 0, tries again


@dataclass(frozen=True)
class Case:
    """One network with its images and budget."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    norm: str = "l2"


@dataclass
class Side:
    """What one implementation took and said."""

    seconds: list[float]
    forwards: int = 0
    backwards: int = 0
    robust: Tensor | None = None


def digits_net(defense: str, settings: Settings, epochs: int) -> tuple[nn.Module, Tensor, Tensor]:
    """Train a defense on digits with the shipped suite's recipe; return it with the test images and labels."""
    return trained_net(defense, settings, epochs, load("digits"), "convnet")


def trained_net(
    defense: str, settings: Settings, epochs: int, data: Dataset, backbone: str
) -> tuple[nn.Module, Tensor, Tensor]:
    """Train a defense with one cycle of batches of 64; return it with the test images and labels."""
    entry = registry.defenses.get(defense)
    recipe = PAPER.with_overrides(
        Recipe(epochs=epochs, batch_size=64, schedule="onecycle", augment="none"), entry.recipe
    )
    hyperparameters = {**entry.hyperparameters, **settings}
    job = TrainJob(entry, hyperparameters, recipe, backbone, len(data.classes), data.shape, 0, data.train)
    model = train(job, torch.device("cpu"))
    x, y = to_unit(torch.tensor(data.test.images)), torch.tensor(data.test.labels).long()
    return model.eval(), x, y


def official_example() -> nn.Module:
    """Load the network that the official package ships as its example."""
    folder = Path(importlib.util.find_spec("pyautoattack").submodule_search_locations[0]) / "examples"  # type: ignore[union-attr,index]
    spec = importlib.util.spec_from_file_location("pyautoattack_example_resnet", folder / "resnet.py")
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    model = module.ResNet18()
    model.load_state_dict(torch.load(folder / "model_test.pt", map_location="cpu", weights_only=True))
    return model.eval()


def cifar_images(folder: Path | None, count: int) -> tuple[Tensor, Tensor, str]:
    """Return CIFAR-10 test images (B, 3, 32, 32) in [0, 1] from a folder, or the samples that foolbox ships."""
    if folder is not None:
        data = load("cifar10", data_dir=folder, limit=count, download=False, need_train=False)
        return to_unit(torch.tensor(data.test.images)), torch.tensor(data.test.labels).long(), data.name
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    import foolbox as library

    wrapped = library.PyTorchModel(nn.Flatten().eval(), bounds=(0, 1), device="cpu")
    x, y = library.utils.samples(wrapped, dataset="cifar10", batchsize=count)
    return x, y, "foolbox's samples"


def measure(side: Side, attack: Callable[..., Tensor], case: Case, settings: Settings) -> None:
    """Run an attack once: CPU seconds, passes (the same every time), verdicts."""
    device = case.x.device
    with counted(case.model) as passes, full_precision(device):
        if device.type == "cuda":
            torch.cuda.synchronize()
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        start = clock()
        found = attack(case.model, case.x, case.y, eps=case.eps, norm=case.norm, seed=0, **settings)
        if device.type == "cuda":
            torch.cuda.synchronize()
        side.seconds.append(clock() - start)
    side.forwards, side.backwards = passes.forwards, passes.backwards
    with torch.no_grad(), full_precision(device):
        point = found.clamp(0, 1)
        inside = size(point - case.x, case.norm) <= case.eps * (1 + 1e-5)
        side.robust = ~((case.model(point).argmax(1) != case.y) & inside)


def compare(
    title: str,
    case: Case,
    ours: Callable[..., Tensor],
    theirs: Callable[..., Tensor],
    blocks: int,
    our_settings: Settings,
    their_settings: Settings,
) -> tuple[list[int], list[int]]:
    """Run both sides in turn and print a line: ratio of times, passes of both, examples whose verdict differs.

    Returns:
        The examples that only theirs breaks, and those that only ours breaks.
    """
    a, b = Side([]), Side([])
    for block in range(blocks):
        order = [(a, ours, our_settings), (b, theirs, their_settings)]
        for side, attack, settings in order if block % 2 else reversed(order):
            measure(side, attack, case, settings)
    ratio = statistics.median(t / o for o, t in zip(a.seconds, b.seconds, strict=True))
    assert a.robust is not None
    assert b.robust is not None
    print(
        f"  {title:<26} {ratio:6.2f}x  ours {statistics.median(a.seconds):8.2f} s  theirs "
        f"{statistics.median(b.seconds):8.2f} s | forwards {a.forwards} / {b.forwards} "
        f"({b.forwards / max(a.forwards, 1):.2f}x), backwards {a.backwards} / {b.backwards} "
        f"({b.backwards / max(a.backwards, 1):.2f}x)"
    )
    missed = (a.robust & ~b.robust).nonzero()[:, 0].tolist()
    gained = (b.robust & ~a.robust).nonzero()[:, 0].tolist()
    print(
        f"  {'':<26} robust {int(a.robust.sum())} / {int(b.robust.sum())} of {len(case.y)}; "
        f"only theirs breaks {missed}; only ours breaks {gained}",
        flush=True,
    )
    if "AutoAttack" in title:
        for rows, loser, settings in ((missed, ours, our_settings), (gained, theirs, their_settings)):
            explain(case, rows, loser, settings)
    return missed, gained


def explain(case: Case, rows: list[int], loser: Callable[..., Tensor], settings: Settings) -> None:
    """Print, for examples that one side did not break, which of its other seeds break them: luck, or weakness."""
    for row in rows:
        seeds = breaking_seeds(case, row, loser, settings)
        print(f"  {'':<26} example {row}: broken by the other side too with seeds {seeds} of {SEEDS}", flush=True)


def breaking_seeds(case: Case, row: int, attack: Callable[..., Tensor], settings: Settings) -> list[int]:
    """Return those of SEEDS with which an attack breaks one image."""
    x, y = case.x[row : row + 1], case.y[row : row + 1]
    found = {seed: attack(case.model, x, y, eps=case.eps, norm=case.norm, seed=seed, **settings) for seed in SEEDS}
    with torch.no_grad():
        return [seed for seed, point in found.items() if case.model(point).argmax(1) != y]


def report(case: Case, blocks: int, autoattack_blocks: int, queries: int) -> None:
    """Print everything about one network."""
    with torch.no_grad():
        clean = (case.model(case.x).argmax(1) == case.y).float().mean()
    print(f"\n{case.name}: {len(case.y)} images, eps {case.eps:g} (l2), clean accuracy {clean:.3f}", flush=True)
    plain = {"steps": 40, "random_start": True}
    for name, library in LIBRARIES.items():
        if importlib.util.find_spec(name) is None:
            print(f"  PGD, {name}: not installed")
            continue
        compare(f"PGD-40, {name}", case, pgd, library.pgd, blocks, {**plain, "losses": ["ce"]}, plain)
    both = {"n_queries": queries}
    compare("AutoAttack, official", case, autoattack, pyautoattack.autoattack, autoattack_blocks, both, both)


def main() -> None:
    """Parse the command line and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--data", type=Path, help="folder with CIFAR-10 images")
    parser.add_argument("--images", type=int, default=64, help="digits per small net; 0 leaves them out")
    parser.add_argument("--big-images", type=int, default=1, help="images for the ResNet-18; 0 leaves it out")
    parser.add_argument("--big-eps", type=float, nargs="+", default=[0.05, 0.5], help="its budgets")
    parser.add_argument("--blocks", type=int, default=5, help="turns of each side for PGD")
    parser.add_argument("--autoattack-blocks", type=int, default=3, help="turns of each side for AutoAttack")
    parser.add_argument("--queries", type=int, default=5000, help="of Square, on both sides")
    parser.add_argument("--epochs", type=int, default=30, help="of the small nets' training")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    keep_memory()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    print(f"torch {torch.__version__} on {where}, {options.threads} thread(s); ratio = theirs / ours")

    cases = small_cases(options.images, options.epochs) if options.images else []
    if options.big_images:
        x, y, source = cifar_images(options.data, options.big_images)
        for eps in options.big_eps:
            name = f"ResNet-18, model_test.pt, on {source}"
            cases.append(Case(name, official_example(), x, y, eps))
    for case in cases:
        moved = Case(case.name, case.model.to(device), case.x.to(device), case.y.to(device), case.eps)
        big = case.x.shape[1] == 3
        report(moved, 1 if big else options.blocks, 1 if big else options.autoattack_blocks, options.queries)


def small_cases(images: int, epochs: int) -> list[Case]:
    """Return three nets of different character on digits."""
    robust, x, y = digits_net("adversarial_training", {"eps": 0.5, "steps": 5}, epochs)
    plain, _, _ = digits_net("vanilla", {}, epochs)
    x, y = x[:images], y[:images]
    return [
        Case("robust digits net (adversarial training at 0.5)", robust, x, y, 0.5),
        Case("non-robust digits net (vanilla)", plain, x, y, 1.5),
        Case("saturated digits net (vanilla, logits times 30)", nn.Sequential(plain, Times(30.0)).eval(), x, y, 0.5),
    ]


class Times(nn.Module):
    """Logits times a factor: the same decisions, and gradients of cross-entropy that vanish."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, logits: Tensor) -> Tensor:
        """Return the logits (B, K) times the factor."""
        return self.factor * logits


if __name__ == "__main__":
    main()
