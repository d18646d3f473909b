"""How many adversarial examples a minute `verify` scores again, in CPU time.

    python -m benchmarks.verify results/digits                    # whole verifications: hashes, links, board included
    python -m benchmarks.verify --examples 500                    # scoring alone, ResNet-18 on 32×32 pixels

Of a folder everything but starting Python is counted. Scoring alone needs no folder: networks with random weights, and
noise as adversarial examples, which the judge looks at like any other.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Final

import numpy as np
import torch

from bench.core import discovery
from bench.models import backbones
from bench.running.rescoring import rescore
from bench.running.verification.verify import VerifyOptions, verify

CLASSES: Final = 10
SHAPE: Final = (3, 32, 32)


def of_folder(out: Path) -> dict[str, float]:
    """Verify a result folder or a pack.

    Args:
        out: the folder; it is left as it is.

    Returns:
        Adversarial examples, models, cells, what does not hold, CPU seconds.
    """
    start = time.process_time()
    found = verify(VerifyOptions(out))
    return {
        "examples": found.examples,
        "models": found.models,
        "cells": found.cells,
        "failed": len(found.findings),
        "cpu_seconds": time.process_time() - start,
    }


def of_scoring(examples: int) -> dict[str, float]:
    """Score noise around random images on a ResNet-18 with random weights.

    Args:
        examples: how many.

    Returns:
        Adversarial examples, CPU seconds.
    """
    torch.manual_seed(0)
    model = backbones.build("resnet18", CLASSES, SHAPE).eval()
    clean = np.random.default_rng(0).random((examples, *SHAPE), dtype=np.float32)
    start = time.process_time()
    rescore(model, clean, np.zeros(examples, np.int64), np.clip(clean + 0.01, 0, 1), eps=1.0, norm="l2")
    return {"examples": examples, "cpu_seconds": time.process_time() - start}


def main() -> None:
    """Print a line per measurement."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="*", metavar="DIR", help="result folders, or packs, to verify")
    parser.add_argument("--examples", type=int, default=0, help="examples to score on a ResNet-18; 0: none")
    parser.add_argument("--json", type=Path, help="file to write the figures to")
    arguments = parser.parse_args()
    discovery.discover()
    found = {str(out): of_folder(out) for out in arguments.folders}
    if arguments.examples:
        found["resnet18"] = of_scoring(arguments.examples)
    for name, one in found.items():
        one["examples_per_cpu_minute"] = 60 * one["examples"] / one["cpu_seconds"]
        print(f"{name:24} {', '.join(f'{key} {value:,.4g}' for key, value in one.items())}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
