"""What it costs that OpenMP's threads spin while they wait, alone on the machine and beside other processes.

    python -m benchmarks.waiting [--busy 0 2] [--rounds 3] [--json FILE]

A small CIFAR network with two threads answers 91 images at a time, as Square's queries do; spinning (GNU OpenMP's
default) and sleeping (`OMP_WAIT_POLICY=PASSIVE`, what `bench` sets) take turns, each in a process of its own. Printed
is the ratio of the medians, sleeping to spinning, of wall time and of CPU time.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import nn

WAYS: dict[str, dict[str, str]] = {"spinning": {}, "sleeping": {"OMP_WAIT_POLICY": "PASSIVE"}}


def answer(times: int) -> tuple[float, float]:
    """Return wall and CPU seconds of so many forward passes of 91 images."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    parts = [nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 4, 2, 1), nn.ReLU(), nn.Flatten()]
    model = nn.Sequential(*parts, nn.Linear(2048, 100), nn.ReLU(), nn.Linear(100, 10))
    x = torch.rand(91, 3, 32, 32)
    with torch.no_grad():
        model(x)
        wall, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
        for _ in range(times):
            model(x.clamp(0, 1)).topk(2)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return time.monotonic() - wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(way: str, times: int) -> tuple[float, float]:
    """Return what `answer` says in a process that waits in this way."""
    clean = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    command = [sys.executable, "-m", "benchmarks.waiting", "--answer", str(times)]
    done = subprocess.run(command, env=clean | WAYS[way], check=True, capture_output=True, text=True)
    wall, cpu = json.loads(done.stdout)
    return wall, cpu


def compare(busy: int, rounds: int, times: int) -> dict[str, float]:
    """Return the ratios, sleeping to spinning, beside so many processes that compute without end.

    Args:
        busy: processes beside the measured one.
        rounds: measurements of each way.
        times: forward passes of a measurement.
    """
    beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(rounds):
            for way in WAYS:
                found[way].append(measured(way, times))
    finally:
        for process in beside:
            process.kill()
            process.wait()
    wall, cpu = ({way: statistics.median(pair[k] for pair in found[way]) for way in WAYS} for k in (0, 1))
    return {"busy": busy, "wall": wall["sleeping"] / wall["spinning"], "cpu": cpu["sleeping"] / cpu["spinning"]}


def main() -> None:
    """Print a line for each number of busy neighbours."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2], help="processes beside the measured one")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=1000, help="forward passes of a measurement")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--answer", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        print(json.dumps(answer(options.answer)))
        return
    rows = [compare(busy, options.rounds, options.times) for busy in options.busy]
    for row in rows:
        print(f"{row['busy']} busy beside: sleeping / spinning {row['wall']:.2f} wall, {row['cpu']:.2f} CPU")
    if options.json:
        options.json.write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
