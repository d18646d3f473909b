"""What trust costs beside the row's AutoAttack, on networks of every robustness: the table in docs/trust.md.

Counted are images passed through the network, forward and backward; measured is CPU time. Networks on digits are
trained here, as is a small ResNet on CIFAR-10 images; one network is other people's.

    python -m benchmarks.trust_cost --data DIR --images 48    # DIR holds cifar10-jpeg/ and nets/; digits alone without
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

import bench
from bench.core import registry
from bench.core.recipe import PAPER, Recipe
from bench.data.catalog import load
from bench.training.loop import TrainJob, train
from benchmarks.trust_units import Foreign

NAMES: Final = ("accuracy", "pgd_l2", "autoattack_l2", "trust")


@dataclass(frozen=True)
class Case:
    """A network and a radius.

    Attributes:
        title: for the table.
        defense: registered name, or the name of a foreign network.
        data: "digits", "cifar10" or "nets".
        eps: l2 radius.
    """

    title: str
    defense: str
    data: str
    eps: float


CASES: Final = (
    Case("adversarially trained, digits", "adversarial_training", "digits", 0.5),
    Case("standard, digits", "standard", "digits", 0.5),
    Case("standard, digits, nothing left", "standard", "digits", 3.0),
    Case("smoothing, digits (no attack declared)", "smoothing", "digits", 0.5),
    Case("smoothing, digits, little left (no attack declared)", "smoothing", "digits", 1.0),
    Case("foreign, CIFAR-10 images", "sdp-adv", "nets", 0.25),
    Case("small ResNet, little left", "standard", "cifar10", 0.25),
    Case("small ResNet, nothing left", "standard", "cifar10", 2.0),
)


def images(case: Case, folder: Path | None, size: int) -> tuple[Tensor, Tensor]:
    """Return the first test images of a case and their labels."""
    if case.data == "digits":
        test = load("digits", limit=size).test
    else:
        assert folder is not None  # cases that need it are left out without
        test = load("cifar10", data_dir=folder / "cifar10-jpeg", limit=size, need_train=False).test
    return torch.tensor(test.pixels()), torch.tensor(test.labels)


def network(case: Case, folder: Path | None) -> nn.Module:
    """Return the network of a case, trained if it is ours."""
    if case.data == "nets":
        assert folder is not None
        return Foreign(folder / "nets", case.defense).eval()
    entry = registry.defenses.get(case.defense)
    digits = case.data == "digits"
    data = load("digits") if digits else load("cifar10", data_dir=folder and folder / "cifar10-jpeg", train_limit=2048)
    small = Recipe(epochs=12 if digits else 4, batch_size=64, schedule="onecycle", augment="none")
    recipe = PAPER.with_overrides(small, entry.recipe)
    backbone = "convnet" if digits else "resnet18-w8"
    job = TrainJob(entry, dict(entry.hyperparameters), recipe, backbone, 10, data.shape, 0, data.train)
    return train(job, torch.device("cpu"))


def measure(case: Case, model: nn.Module, folder: Path | None, size: int) -> str:
    """Return one line of the table: what the attack left, both ratios, and the checks not made for their cost."""
    table = bench.evaluate(model, data=images(case, folder, size), evaluations=NAMES, eps=case.eps)
    cost, checks = table.attrs["cost"], table.attrs["trust"]["checks"]
    attack, trust = cost["autoattack_l2"], cost["trust"]
    kept = float(table[f"autoattack_l2_{case.eps:g}_robust"].mean())
    passes = [c["forwards"] + c["backwards"] for c in (trust, attack)]
    dear = [n for n, c in checks.items() if c["verdict"] == "not assessable" and "allotted" in c["words"]]
    return (
        f"| {case.title}, ε {case.eps:g} | {100 * kept:.0f} % | {passes[1]:,} | {passes[0] / passes[1]:.2f} | "
        f"{attack['seconds']:.2f} s | {trust['seconds'] / attack['seconds']:.2f} | {', '.join(dear) or '–'} | "
        f"{table.attrs['trust']['grade']} |"
    )


def main() -> None:
    """Measure every case and print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--only", default="", help="cases whose title has these letters")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(
        "| network | kept | passes of AutoAttack | trust, passes | AutoAttack, CPU | trust, time | too dear | grade |"
    )
    print("|---|---|---|---|---|---|---|---|")
    trained: dict[tuple[str, str], nn.Module] = {}
    for case in CASES:
        if (case.data != "digits" and options.data is None) or options.only not in case.title:
            continue
        key = (case.data, case.defense)
        if key not in trained:
            trained[key] = network(case, options.data)
        print(measure(case, trained[key], options.data, options.images), flush=True)


if __name__ == "__main__":
    main()
