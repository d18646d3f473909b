"""What a regime's training step costs on digits, relative to Standard's: the small network of that suite, batch 64.

All steps take turns in one process, in an order drawn anew for every block; a ratio is the median over the blocks, with
the quartiles, of CPU time of one thread. Operations are calls of torch's operators in one step.

    python -m benchmarks.digits_steps
    python -m benchmarks.digits_steps --regimes lcnn --blocks 1500 --steps 1
"""

from __future__ import annotations

import argparse
import statistics

import torch

from bench.running import machine
from bench.training.execution import ExecutionConfig
from benchmarks.training import CLASSES, KNOWN, ours, race, ratio


def main() -> None:
    """Print a line per regime."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=25)
    parser.add_argument("--steps", type=int, default=10, help="steps per block")
    parser.add_argument("--regimes", default=",".join(KNOWN), help="beside standard, by commas")
    options = parser.parse_args()
    names = list(dict.fromkeys(["standard", *options.regimes.split(",")]))
    if unknown := sorted(set(names) - set(KNOWN)):
        parser.error(f"--regimes: expected some of {', '.join(KNOWN)}, got {', '.join(unknown)}")
    torch.set_num_threads(1)
    machine.keep_memory()
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(64, 1, 8, 8, generator=draw)
    y = torch.randint(0, CLASSES, (64,), generator=draw)
    steps = {name: ours(name, x, "convnet", "fp32", ExecutionConfig(), "ours", print)[0] for name in names}
    race(list(steps.values()), x, y, "fp32", options.blocks, options.steps)
    milliseconds = 1e3 * statistics.median(steps["standard"].seconds)
    print(f"torch {torch.__version__}, one thread; a step of standard: {milliseconds:.2f} ms")
    for name, step in steps.items():
        middle, low, high = ratio(step, steps["standard"])
        print(f"{name}: {middle:.2f} ({low:.2f}-{high:.2f}) of standard, {step.operations} operations")
    if {"lcnn_gradreg", "gradreg"} <= set(steps):
        middle, low, high = ratio(steps["lcnn_gradreg"], steps["gradreg"])
        print(f"lcnn_gradreg / gradreg: {middle:.2f} ({low:.2f}-{high:.2f})")


if __name__ == "__main__":
    main()
