"""What channels last gives a folded network on a CPU: time of a pass and of a gradient, and how far results move.

Both layouts take turns in one process; the ratio is the median over the blocks of channels last to rows, in CPU time of
one thread. The difference is the largest of a gradient, relative to the largest gradient. Attacks choose the layout by
the size of an image (`attacks/core/folding.py`).

    python -m benchmarks.layout
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor, nn

from bench.attacks.core import folding
from bench.core import registry
from bench.core.seeding import seed_everything
from bench.core.torch_state import frozen_eval
from bench.running.machine import keep_memory

NETWORKS = (
    ("standard", "resnet18-w16", (3, 32, 32), 16),
    ("lcnn", "resnet18-w16", (3, 32, 32), 16),
    ("vanilla", "resnet18-w32", (3, 32, 32), 8),
    ("vanilla", "convnet", (3, 32, 32), 32),
    ("standard", "convnet", (1, 8, 8), 36),
    ("standard", "convnet", (1, 8, 8), 288),
)


def forward(network: nn.Module, x: Tensor) -> None:
    """Run a pass."""
    with torch.no_grad():
        network(x)


def gradient(network: nn.Module, x: Tensor) -> Tensor:
    """Return the gradient (B, C, H, W) of the sum of all logits."""
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(network(leaf).sum(), leaf)
    return grad


def ratio(rows: nn.Module, last: nn.Module, call: Callable[[nn.Module, Tensor], object], x: Tensor) -> float:
    """Return the median ratio of CPU time, channels last to rows, over seven blocks in turn."""
    found = []
    for _ in range(8):
        seconds = []
        for network in (rows, last):
            start = time.thread_time()
            for _ in range(max(1, 16384 // x.numel())):
                call(network, x)
            seconds.append(time.thread_time() - start)
        found.append(seconds[1] / seconds[0])
    return statistics.median(found[1:])


def main() -> None:
    """Print a line per network."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    keep_memory()
    torch.set_num_threads(1)
    for defense, backbone, shape, count in NETWORKS:
        seed_everything(0)
        model = registry.defenses.get(defense).function(10, shape, backbone).eval()
        x = torch.rand(count, *shape)
        with frozen_eval(model):
            layouts = []
            for pixels in (1 << 30, 0):
                with mock.patch.object(folding, "PIXELS", pixels):
                    layouts.append(folding.fold_constants(model, x, 100))
            a, b = (gradient(network, x) for network in layouts)
            print(
                f"{defense}, {backbone}, {count} images {shape}: channels last / rows "
                f"{ratio(*layouts, forward, x):.2f} forward, {ratio(*layouts, gradient, x):.2f} with gradient; "
                f"difference {float((a - b).abs().max() / a.abs().max()):.0e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
