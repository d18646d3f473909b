"""What a GPU takes: trainings, an attack's passes with and without recordings, and precisions against one another.

    python -m benchmarks.gpu trainings --data DIR --backbone resnet18 --precision fp32,bf16
    python -m benchmarks.gpu passes --backbone resnet18-w16
    python -m benchmarks.gpu precisions --data DIR --backbone resnet18-w16

`trainings`: device time of the last of two epochs, scaled to 50,000 images, and the memory that torch held. `passes`:
attacks on an untrained network's own predictions, which survive at so small a budget, both ways in turn in one process,
the faster of two; margins compared. `precisions`: the short trainings of `precision_gate`, fp32 twice.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bench.attacks.core import folding
from bench.core import registry
from bench.core.recipe import PAPER, Precision, Recipe
from bench.core.torch_state import full_precision
from bench.data.catalog import load
from bench.data.split import Dataset
from bench.running.precision_gate import short_training
from bench.training.epoch import EpochRecord
from bench.training.loop import TrainJob, train

DEFENSES = ("standard", "lcnn", "gradreg", "lcnn_gradreg", "cure", "softplus_wd", "adversarial_training")
FULL_EPOCH = 50_000
EPS = 0.003
# Attack, images, arguments.
PASSES: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("square", 20, {"n_queries": 600}),
    ("square", 500, {"n_queries": 200}),
    ("apgd", 50, {"loss": "targeted"}),
    ("fab", 50, {"steps": 60}),
    ("pgd", 500, {}),
)


@dataclass(frozen=True)
class Options:
    """The command line: see `--help`."""

    what: str
    data: str | None
    dataset: str
    device: torch.device
    backbone: str
    defenses: tuple[str, ...]
    precisions: tuple[Precision, ...]
    images: int


def job_of(name: str, dataset: Dataset, backbone: str, precision: Precision, seed: int = 0) -> TrainJob:
    """Return the training of a defense in two one-cycle epochs."""
    entry = registry.defenses.get(name)
    recipe = PAPER.with_overrides(Recipe(epochs=2, schedule="onecycle", precision=precision), entry.recipe)
    hyperparameters = dict(entry.hyperparameters)
    return TrainJob(entry, hyperparameters, recipe, backbone, 10, dataset.shape, seed, dataset.train)


def trainings(options: Options) -> None:
    """Print seconds per 50,000 images and memory of every defense."""
    dataset = load(options.dataset, data_dir=options.data, train_limit=options.images, limit=10)
    print(
        "| defense | precision | s per 50,000 images | ms per step | peak, GiB | reserved, GiB | loss |\n"
        + "|---" * 7
        + "|"
    )
    for name in options.defenses:
        for precision in options.precisions:
            job, records = job_of(name, dataset, options.backbone, precision), list[EpochRecord]()
            if options.device.type == "cuda":
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats(options.device)
            train(job, options.device, on_epoch=records.append, log=print)
            last, n = records[-1], len(dataset.train)
            held = [0.0, 0.0]
            if options.device.type == "cuda":
                held = [torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30]
            epoch, step = last.time.cost * FULL_EPOCH / n, 1e3 * last.time.cost * job.recipe.batch_size / n
            memory = f"{held[0]:.2f} | {held[1]:.2f}"
            print(f"| {name} | {precision} | {epoch:.1f} | {step:.2f} | {memory} | {last.loss:.3f} |")


@contextmanager
def plain() -> Iterator[None]:
    """Record no passes inside the block."""
    known = folding.only_known_layers
    folding.only_known_layers = lambda model: False
    try:
        yield
    finally:
        folding.only_known_layers = known


def clock(function: Callable[[], Tensor], device: torch.device) -> tuple[Tensor, float]:
    """Return what a call gives and the seconds that it takes, with all that it launches."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    found = function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return found, time.perf_counter() - started


def passes(options: Options) -> None:
    """Print what recorded passes gain for each attack, and the largest difference of the margins that it finds."""
    print(
        "| network | attack | images | plain, s | recorded, s | plain / recorded | largest difference |\n"
        + "|---" * 7
        + "|"
    )
    for name in options.defenses:
        torch.manual_seed(0)
        model = registry.defenses.get(name).function(10, (3, 32, 32), options.backbone).to(options.device).eval()
        x = torch.rand(min(options.images, max(size for _, size, _ in PASSES)), 3, 32, 32, device=options.device)
        with torch.no_grad():
            y = torch.cat([model(part).argmax(1) for part in x.split(100)])
        for attack, size, arguments in PASSES:
            n = min(size, options.images)
            search = partial(_margins, registry.attacks.get(attack).function, model, x[:n], y[:n], arguments)
            slow = fast = math.inf
            for _ in range(2):
                recorded, taken = clock(search, options.device)
                fast = min(fast, taken)
                with plain():
                    unrecorded, taken = clock(search, options.device)
                slow = min(slow, taken)
            difference = float((recorded - unrecorded).abs().max())
            print(f"| {name} | {attack} | {n} | {slow:.3f} | {fast:.3f} | {slow / fast:.2f} | {difference:.1e} |")


def _margins(
    search: Callable[..., Tensor], model: nn.Module, x: Tensor, y: Tensor, arguments: Mapping[str, Any]
) -> Tensor:
    """Return the margins (B,) that an attack comes to."""
    trace: dict[str, Any] = {}
    with full_precision(x.device):
        search(model, x, y, eps=EPS, trace=trace, **arguments)
    margin: Tensor = trace["margin"]
    return margin


def precisions(options: Options) -> None:
    """Print how far short trainings in each precision are from one in fp32, and a second one in fp32."""
    dataset = load(options.dataset, data_dir=options.data, train_limit=options.images, limit=10)
    print("| defense | precision | " + " | ".join(("loss", "accuracy", "curvature")) + " |\n" + "|---" * 5 + "|")
    for name in options.defenses:
        job = job_of(name, dataset, options.backbone, "fp32")
        full = short_training(job, options.device, "fp32")
        for precision in ("fp32", *(p for p in options.precisions if p != "fp32")):
            found = full.differences(short_training(job, options.device, precision))
            numbers = " | ".join(f"{100 * found[k][0]:.2f} %" for k in ("loss", "accuracy", "curvature"))
            print(f"| {name} | {precision} | {numbers} |")


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("trainings", "passes", "precisions"))
    parser.add_argument("--data", help="folder with the images")
    parser.add_argument("--dataset", default="cifar10", help="what the trainings are on")
    parser.add_argument("--device", default="cuda", help="cpu, cuda or cuda:i")
    parser.add_argument("--backbone", default="resnet18-w16")
    parser.add_argument("--defense", default=",".join(DEFENSES), help="names with commas between")
    parser.add_argument("--precision", default="fp32,tf32,bf16", help="of training, with commas between")
    parser.add_argument("--images", type=int, default=12800, help="training images; of attacks, at most")
    given = parser.parse_args(arguments)
    options = Options(
        what=given.what,
        data=given.data,
        dataset=given.dataset,
        device=torch.device(given.device),
        backbone=given.backbone,
        defenses=tuple(given.defense.split(",")),
        precisions=tuple(given.precision.split(",")),
        images=given.images,
    )
    name = torch.cuda.get_device_name(options.device) if options.device.type == "cuda" else "CPU"
    print(f"{options.backbone}, torch {torch.__version__}, {name}\n")
    {"trainings": trainings, "passes": passes, "precisions": precisions}[options.what](options)


if __name__ == "__main__":
    main()
