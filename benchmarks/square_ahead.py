"""Square's queries eight at a time against one at a time: CPU time where it is forced, and as the rule decides.

Ratios to one at a time, the three taking turns; whether the points are the same to the bit. Networks are those of
`benchmarks.raced`, at half of their budget, so that images withstand.

    python -m benchmarks.square_ahead --defense adversarial_training --counts 2 12 60
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from bench.attacks.core import square_pace
from bench.attacks.square import square
from benchmarks.attacks import Case
from benchmarks.raced import cases

SMALL: Final = square_pace.SMALL
LIMITS: Final = {"one at a time": -1.0, "by the rule": square_pace.CHEAP, "forced": math.inf}


def timed(case: Case, limit: float, queries: int) -> tuple[float, Tensor]:
    """Return the CPU time and the points of a search with a limit of operations for asking ahead."""
    vars(square_pace).update(CHEAP=limit, SMALL=1 << 40 if limit == math.inf else SMALL)
    start = time.process_time()
    found = square(case.model, case.x, case.y, eps=case.eps / 2, norm=case.norm, n_queries=queries)
    return time.process_time() - start, found


def report(case: Case, count: int, queries: int, blocks: int) -> None:
    """Print the ratios on the first `count` images that are classified right, if there are so many."""
    with torch.no_grad():
        right = (case.model(case.x).argmax(1) == case.y).nonzero()[:count, 0]
    if len(right) < count:
        return
    case = Case(case.name, case.model, case.x[right], case.y[right], case.eps, case.norm)
    timed(case, LIMITS["forced"], 300)  # what is loaded or chosen once
    runs = [{name: timed(case, limit, queries) for name, limit in LIMITS.items()} for _ in range(blocks)]
    for name in list(LIMITS)[1:]:
        ratio = statistics.median(run[name][0] / run["one at a time"][0] for run in runs)
        same = all(torch.equal(run[name][1], run["one at a time"][1]) for run in runs)
        print(f"  {case.name}, {case.norm}, {count} images, {name}: {ratio:.2f}; same points: {same}", flush=True)


def main() -> None:
    """Parse the command line and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=80, help="digits per network; 0 leaves them out")
    parser.add_argument("--data", type=Path, help="folder with nets/ and cifar10-jpeg/")
    parser.add_argument("--big-images", type=int, default=20, help="images for the foreign networks")
    parser.add_argument("--resnet-images", type=int, default=0, help="images for the ResNet, which is trained here")
    parser.add_argument("--defense", nargs="+", default=["adversarial_training"], help="networks trained on digits")
    parser.add_argument("--norm", nargs="+", default=["l2"])
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--counts", type=int, nargs="+", default=[2, 12, 60], help="images attacked")
    parser.add_argument("--queries", type=int, default=1500)
    parser.add_argument("--blocks", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for case in cases(options):
        for count in options.counts:
            report(case, count, options.queries, options.blocks)


if __name__ == "__main__":
    main()
