"""What a regime's training step costs relative to Standard: ours, and the published step written out plainly.

All steps of both sides take turns in one process, after warming up; a ratio is the median over the blocks of (time of
the regime)/(time of the same side's Standard in the same block), with the quartiles beside it. Operations are calls of
torch's operators in one step, waits those that fetch a number to the host.

Parity is the largest relative difference of our float32 step from a float64 step of plain library operations: of the
loss, and of every parameter's gradient. For it, the baselines' activation has β = 10 instead of 1000: at 1000 the
library's own float32 step is up to 1 % away from its float64 step, because the activation's curvature is a spike 1/β
wide; that distance, ours and the library's, is in the last column.

    python -m benchmarks.training                                     # ResNet-18, width 16, batch 64: a few minutes
    python -m benchmarks.training --device cuda --width 64 --batch 128 --precision bf16
    python -m benchmarks.training --device cuda --width 64 --batch 128 --deterministic

On a CPU one thread computes, and its own CPU seconds count, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bench.core import registry
from bench.core.seeding import seed_everything
from bench.models.layers import Softplus
from bench.running import machine
from bench.training.execution import STEP_MODES, ExecutionConfig
from bench.training.gradients import EagerGradients, Loss
from bench.training.losses import bound_loss
from bench.training.make_step import make_step
from bench.training.optimization import parameter_groups
from bench.training.precision import autocast, memory_format, torch_settings
from benchmarks import published

# Regime → (forward passes relative to Standard's at least, counted; the paper's on its GPU).
KNOWN = {
    "standard": (1.0, 1.0),
    "lcnn": (1.008, 1.6),
    "gradreg": (2.04, 2.7),
    "lcnn_gradreg": (2.04, 3.5),
    "cure": (4.08, 5.0),
    "adversarial_training": (3.0, 5.0),
}
CLASSES, SIZE, LR = 10, 32, 0.1

Step = Callable[[Tensor, Tensor], Any]


@dataclass
class Contender:
    """One regime on one side: its step, the switches it runs under, and its seconds per step in every block."""

    regime: str
    side: str
    step: Step
    execution: ExecutionConfig = field(default_factory=ExecutionConfig)
    seconds: list[float] = field(default_factory=list)
    operations: int = 0
    waits: int = 0


@dataclass(frozen=True)
class Parity:
    """How far our step is from the plain float64 one: loss, gradients; at the regime's own β ours and the library's."""

    loss: float
    gradients: float
    own: float
    library: float


class Count(TorchDispatchMode):
    """Counts operator calls inside the block: those that compute (views are free), and those that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.waits = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.ops.aten._local_scalar_dense.default:
            self.waits += 1
        elif not function.is_view:
            self.operations += 1
        return function(*args, **(kwargs or {}))


def ours(
    regime: str,
    x: Tensor,
    backbone: str,
    precision: str,
    execution: ExecutionConfig,
    side: str,
    log: Callable[[str], None],
) -> tuple[Contender, nn.Module]:
    """Return our step of a regime as the training loop makes it, and its network as it was before any step."""
    seed_everything(0)
    entry = registry.defenses.get(regime)
    model = entry.function(CLASSES, tuple(x.shape[1:]), backbone).train().to(x.device)
    model = model.to(memory_format=_layout(x, precision))
    optimizer = torch.optim.SGD(parameter_groups(model, 5e-4), lr=LR, momentum=0.9, fused=True)  # as the loop's
    loss = bound_loss(entry.recipe.loss, dict(entry.hyperparameters))
    fresh = copy.deepcopy(model)
    step = make_step(
        execution.step_mode(x.device),
        model,
        optimizer,
        loss,
        {},
        autocast=lambda: autocast(precision, x.device),
        size=len(x),
        log=log,
    )
    return Contender(regime, side, lambda x, y: step(x, y, LR), execution), fresh


def _layout(x: Tensor, precision: str) -> torch.memory_format:
    """Return the memory layout in which images x (B, C, H, W) are trained on."""
    return memory_format((x.shape[2], x.shape[3]), precision, x.device)


def theirs(regime: str, device: torch.device, width: int) -> Contender:
    """Return the published step of a regime."""
    seed_everything(0)
    model = published.network(regime.startswith("lcnn"), width, CLASSES, SIZE).to(device)
    return Contender(regime, "published", published.step(regime, model, LR))


def parity(regime: str, fresh: nn.Module, x: Tensor, y: Tensor, precision: str) -> Parity:
    """Return the relative differences of our step from the plain float64 one.

    A gradient's is ‖g − g64‖/‖g64‖ of one parameter, with a floor of 1e-3 of the whole gradient's norm below.
    """
    entry, smooth = registry.defenses.get(regime), copy.deepcopy(fresh)
    fast = bound_loss(entry.recipe.loss, dict(entry.hyperparameters))
    for module in smooth.modules():
        if isinstance(module, Softplus):
            module.fixed_beta = 10.0

    def plain(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {**fast(model, x, y), "penalty": published.curvature_penalty(model)}  # ours knows no plain layers

    found = []
    for model in (smooth, fresh):
        reference = published.reference(model)
        exact = _gradients(reference, plain, x.double(), y, "fp64")
        ours = _difference(_gradients(model, fast, x, y, precision), exact)
        library = _difference(_gradients(reference.float(), plain, x, y, precision), exact)
        found.append((ours, library[1]))
    return Parity(*found[0][0], found[1][0][1], found[1][1])


def _gradients(model: nn.Module, loss: Loss, x: Tensor, y: Tensor, precision: str) -> tuple[Tensor, list[Tensor]]:
    twin = copy.deepcopy(model)
    seed_everything(1)
    terms, _ = EagerGradients(twin, loss, lambda: autocast(precision, x.device))(x, y)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in twin.parameters()]
    return torch.stack([t.double() for t in terms.values()]).sum(), [g.double() for g in gradients]


def _difference(got: tuple[Tensor, list[Tensor]], want: tuple[Tensor, list[Tensor]]) -> tuple[float, float]:
    floor = 1e-3 * torch.stack([g.norm() for g in want[1]]).norm()
    worst = max(float((a - b).norm() / b.norm().clamp_min(floor)) for a, b in zip(got[1], want[1], strict=True))
    return float((got[0] - want[0]).abs() / want[0].abs()), worst


def clock(device: torch.device) -> float:
    """Return the seconds that count: this process' on a CPU, the wall's on a GPU that has finished its queue."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def race(contenders: Sequence[Contender], x: Tensor, y: Tensor, precision: str, blocks: int, steps: int) -> None:
    """Warm up, count operations, then let the contenders take turns in drawn orders; fills their seconds."""
    images, order = x.to(memory_format=_layout(x, precision)), random.Random(0)
    for block in range(-1, blocks):
        for c in order.sample(contenders, len(contenders)):
            mine = x if c.side == "published" else images
            with torch_settings(c.execution, precision, x.device):
                if block < 0:
                    with Count() as count:
                        c.step(mine, y)
                    c.operations, c.waits = count.operations, count.waits
                    for _ in range(4 if x.device.type == "cuda" else 0):  # three warm up, the fourth is recorded
                        c.step(mine, y)
                    continue
                started = clock(x.device)
                for _ in range(steps):
                    c.step(mine, y)
                c.seconds.append((clock(x.device) - started) / steps)


def ratio(over: Contender, under: Contender) -> tuple[float, float, float]:
    """Return the median over the blocks of one's time over the other's, and its quartiles."""
    quotients = [a / b for a, b in zip(over.seconds, under.seconds, strict=True)]
    low, middle, high = np.quantile(quotients, (0.25, 0.5, 0.75)).tolist()  # of one block too
    return middle, low, high


def table(sides: dict[tuple[str, str], Contender], parities: dict[str, Parity]) -> str:
    """Return the table: floor, paper, ours, the published step here, what that costs, operations, waits, parity."""
    lines = [
        "| regime | FLOP floor | paper | **ours** (quartiles) | published step here (quartiles) | published / ours "
        "| operations, ours / published | waits, ours / published | parity of loss / gradients "
        "| gradients at own β, ours / library |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for regime, (floor, paper) in KNOWN.items():
        mine, plain = sides["ours", regime], sides["published", regime]
        a, b = ratio(mine, sides["ours", "standard"]), ratio(plain, sides["published", "standard"])
        gain, close = ratio(plain, mine), parities[regime]
        lines.append(
            f"| {regime} | {floor:g} | {paper:g} | **{a[0]:.2f}** ({a[1]:.2f}-{a[2]:.2f}) "
            f"| {b[0]:.2f} ({b[1]:.2f}-{b[2]:.2f}) | {gain[0]:.2f} | {mine.operations} / {plain.operations} "
            f"| {mine.waits} / {plain.waits} | {close.loss:.1e} / {close.gradients:.1e} "
            f"| {close.own:.1e} / {close.library:.1e} |"
        )
    return "\n".join(lines)


def deterministic_lines(sides: dict[tuple[str, str], Contender], device: torch.device) -> list[str]:
    """Return what `--deterministic` costs each regime."""
    if device.type == "cpu":
        return ["deterministic: nothing to pay on a CPU, whose steps give the same bits each time as they are"]
    found = [(regime, ratio(sides["deterministic", regime], sides["ours", regime])) for regime in KNOWN]
    return [f"deterministic {regime}: {m:.3f} × ({low:.3f}-{high:.3f})" for regime, (m, low, high) in found]


def main() -> None:
    """Parse the command line, measure, print the table, and write the JSON file."""
    options = _options()
    device = torch.device(options.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
        machine.keep_memory()
    strict = ExecutionConfig(options.step, deterministic=True)
    if options.deterministic:
        strict.apply()
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(options.batch, 3, SIZE, SIZE, generator=draw).to(device)
    y = torch.randint(0, CLASSES, (options.batch,), generator=draw).to(device)
    sides: dict[tuple[str, str], Contender] = {}
    parities, started, backbone = {}, time.monotonic(), f"resnet18-w{options.width}"
    for regime in KNOWN:
        mine, fresh = ours(regime, x, backbone, options.precision, ExecutionConfig(options.step), "ours", print)
        sides["ours", regime], sides["published", regime] = mine, theirs(regime, device, options.width)
        if options.deterministic and device.type == "cuda":
            sides["deterministic", regime], _ = ours(
                regime, x, backbone, options.precision, strict, "deterministic", print
            )
        with torch_settings(ExecutionConfig(), options.precision, device):
            parities[regime] = parity(regime, fresh, x[: options.parity], y[: options.parity], options.precision)
    race(list(sides.values()), x, y, options.precision, options.blocks, options.steps)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU, one thread"
    print(
        f"ResNet-18 of width {options.width}, batch {options.batch}, "
        f"{options.precision if device.type == 'cuda' else 'fp32'}, "
        f"step {ExecutionConfig(options.step).step_mode(device)}, "
        f"{options.blocks} blocks of {options.steps} steps; torch {torch.__version__}, {name}; "
        f"Standard {1e3 * np.median(sides['ours', 'standard'].seconds):.1f} ms a step\n"
    )
    print(table(sides, parities))
    middle, low, high = ratio(sides["ours", "lcnn_gradreg"], sides["ours", "gradreg"])
    print(f"\nlcnn_gradreg / gradreg: {middle:.2f} ({low:.2f}-{high:.2f})")
    if options.deterministic:
        print("\n".join(deterministic_lines(sides, device)))
    print(f"took {time.monotonic() - started:.0f} s")
    if options.json:
        options.json.write_text(json.dumps(_record(sides, parities), indent=2) + "\n")


def _record(sides: dict[tuple[str, str], Contender], parities: dict[str, Parity]) -> dict[str, dict[str, float]]:
    found = {}
    for regime in ("lcnn", "gradreg", "lcnn_gradreg", "cure", "adversarial_training"):
        middle, low, high = ratio(sides["ours", regime], sides["ours", "standard"])
        found[regime] = {
            "ratio": middle,
            "low": low,
            "high": high,
            "parity": max(parities[regime].loss, parities[regime].gradients),
        }
    return found


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:i")
    parser.add_argument("--width", type=int, default=16, help="channels of the first layer; 64 is the paper's")
    parser.add_argument("--batch", type=int, default=64, help="images per step; 128 is the paper's")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "tf32", "bf16"), help="of our side, on a GPU")
    parser.add_argument("--step", default="auto", choices=STEP_MODES, help="how our side carries out a step")
    parser.add_argument("--deterministic", action="store_true", help="also measure what determinism costs")
    parser.add_argument("--blocks", type=int, default=11)
    parser.add_argument("--steps", type=int, default=1, help="steps per block")
    parser.add_argument("--parity", type=int, default=64, help="images of the parity check")
    parser.add_argument("--json", type=Path, help="file for the ratios")
    return parser.parse_args()


if __name__ == "__main__":
    main()
