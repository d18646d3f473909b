"""What PGD's curve costs from the largest budget down, against from the smallest up, and whether verdicts change.

From the smallest up, an image that is broken is not attacked at the larger budgets; from the largest down (what bench
does), an image that withstands a ball is not attacked in the smaller ones, but for a tenth of all images. Both take
turns on each network, on the same images with the same random draws. Printed are passes per image, forward and
backward, CPU seconds, their ratios, verdicts that differ, and what the tenth showed: images that withstood a ball and
fell in a smaller one.

    python -m benchmarks.budgets                                   # four networks on digits
    python -m benchmarks.budgets --data DIR                        # the museum's four foreign networks on CIFAR-10
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from bench.attacks.pgd import pgd
from bench.core.torch_state import full_precision
from bench.measuring.attack_call import AttackCall
from bench.measuring.passes import counted
from bench.measuring.robust_state import attack_budgets
from benchmarks.attacks import Case
from benchmarks.restarts import DEFENSES, cases

BUDGETS: Final = (0.05, 0.1, 0.15, 0.2, 0.5)


def rising(case: Case) -> tuple[Tensor, int, int]:
    """Attack from the smallest budget up; return verdicts, bool (budgets, B), and twice 0: nothing is confirmed."""
    with torch.no_grad():
        robust = case.model(case.x).argmax(1) == case.y
    verdicts = []
    for eps in BUDGETS:
        rows = robust.nonzero()[:, 0]
        if len(rows):
            (found,) = attack_budgets(AttackCall(pgd, "pgd_l2", "l2", 0), case.model, case.x[rows], case.y[rows], [eps])
            robust = robust.index_copy(0, rows, found.state.robust)
        verdicts.append(robust)
    return torch.stack(verdicts), 0, 0


def falling(case: Case) -> tuple[Tensor, int, int]:
    """Attack from the largest budget down; return verdicts, how many images were confirmed, and how many fell."""
    call = AttackCall(pgd, "pgd_l2", "l2", 0)
    results = list(attack_budgets(call, case.model, case.x, case.y, BUDGETS))
    smallest, largest = results[0], results[-1]
    survived = largest.state.robust | largest.missed
    return (
        torch.stack([r.state.robust for r in results]),
        int((survived & ~smallest.inferred).sum()),
        int(torch.stack([r.missed for r in results]).any(0).sum()),
    )


def report(case: Case) -> None:
    """Let both orders take turns on a case and print its line."""
    cost, seconds = {}, {}
    found: dict[str, tuple[Tensor, int, int]] = {}
    orders: tuple[Callable[[Case], tuple[Tensor, int, int]], ...] = (rising, falling, rising, falling)
    for order in orders:
        started = time.process_time()
        with counted(case.model) as passes, full_precision(case.x.device):
            found[order.__name__] = order(case)
        seconds[order.__name__] = seconds.get(order.__name__, 0.0) + time.process_time() - started
        cost[order.__name__] = (passes.forwards + passes.backwards) / len(case.x)
    (before, _, _), (after, confirmed, fell) = found["rising"], found["falling"]
    print(
        f"{case.name:28s} left at {BUDGETS[-1]:g}: {int(after[-1].sum())} of {len(case.x)}; passes per image "
        f"{cost['rising']:.0f} → {cost['falling']:.0f} ({cost['rising'] / cost['falling']:.2f} ×), CPU "
        f"{seconds['rising'] / seconds['falling']:.2f} ×; verdicts that differ: {int((before != after).sum())} of "
        f"{after.numel()}; confirmed {confirmed}, fell {fell}",
        flush=True,
    )


def main() -> None:
    """Read the options, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--defense", nargs="+", default=list(DEFENSES), help="networks trained on digits")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--data", type=Path, help="folder with nets/ and cifar10-jpeg/: those instead of digits")
    options = parser.parse_args()
    options.eps = [BUDGETS[-1]]
    for case in cases(options):
        report(case)


if __name__ == "__main__":
    main()
