"""False alarms and misses of the trust checks, on networks trained on real images: what docs/trust.md quotes.

Honest networks: digits (several defenses and seeds, trained here), CIFAR-10 images (small ResNets, trained here), and
the four that other people trained. A unit is one network on one block of images. Every fault is put on every honest
network; the check that should see it is named beside. Too weak attacks stand in the row's place: the checks must see
that. Per check: the share of honest units on which it fails, the share of faulty ones on which it does
not, both with Clopper-Pearson 95 % intervals, and the values next to the threshold on either side.

    python -m benchmarks.trust --data DIR --workers 2 --save FILE.json    # DIR holds cifar10-jpeg/ and nets/
    python -m benchmarks.trust --blocks 1 --seeds 1                       # digits alone, minutes
    python -m benchmarks.trust --read FILE.json                           # the tables again
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import bench
from bench.core import registry
from bench.core.recipe import PAPER, Recipe
from bench.core.stats.intervals import clopper_pearson
from bench.data.catalog import load
from bench.data.split import Dataset
from bench.training.loop import TrainJob, train
from bench.trust.registry import checks

BLOCK: Final = 64  # images of a unit
EPS: Final = {"digits": 0.5, "cifar10": 0.25}  # l2
ENDS: Final = ("a2_late_rise", "g6_stationarity")  # per survivor; of those the 95 % quantile
DEFENSES: Final = ("standard", "lcnn", "gradreg", "adversarial_training")


class Foreign(nn.Module):
    """Two convolutions and two linear layers with ReLU, on normalised images; one of the networks in `nets/`."""

    mean: Tensor
    std: Tensor

    def __init__(self, folder: Path, name: str) -> None:
        super().__init__()
        facts = tomllib.loads((folder / "nets.toml").read_text())[name]
        weights = load_file(folder / f"{name}.safetensors")
        wide, narrow = weights["conv1.weight"], weights["conv2.weight"]
        self.conv1 = nn.Conv2d(3, len(wide), 4, 2, facts["padding"])
        self.conv2 = nn.Conv2d(len(wide), len(narrow), 4, 2, facts["padding"])
        self.fc1 = nn.Linear(weights["fc1.weight"].shape[1], len(weights["fc1.bias"]))
        self.fc2 = nn.Linear(weights["fc2.weight"].shape[1], len(weights["fc2.bias"]))
        self.load_state_dict(weights)
        self.register_buffer("mean", torch.tensor(facts["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(facts["std"]).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 10)."""
        z = self.conv2(self.conv1((x - self.mean) / self.std).relu()).relu()
        return self.fc2(self.fc1(z.flatten(1)).relu())


class WrongGradient(torch.autograd.Function):
    """The identity, with another gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        """Return x (B, …)."""
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        """Return the changed gradient (B, …)."""
        return ctx.change(grads[0]), None


class Faulty(nn.Module):
    """A network with something before it and something behind it."""

    def __init__(self, network: nn.Module, before: Callable[..., Tensor], behind: Callable[..., Tensor]) -> None:
        super().__init__()
        self.network, self.before, self.behind = network, before, behind

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K)."""
        return self.behind(self.network(self.before(x)))


def same(x: Tensor) -> Tensor:
    """Return x."""
    return x


def shuffled(gradient: Tensor) -> Tensor:
    """Return a gradient (B, …) with its entries in another, fixed order."""
    flat = gradient.flatten(1)
    order = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(0))
    return flat[:, order].view_as(gradient)


def purified(network: nn.Module, x: Tensor) -> Tensor:
    """Return x (B, …) moved a little towards the predicted class, by a gradient step inside the forward pass."""
    with torch.enable_grad():
        leaf = x.detach().requires_grad_()
        (g,) = torch.autograd.grad(network(leaf).logsumexp(1).sum(), leaf)
    return x + 0.01 * g.sign()


# name: (the check that must fail, what stands before the network, what behind it)
FAULTS: Final[dict[str, tuple[str, Callable[..., Tensor], Callable[..., Tensor]]]] = {
    "logits × 1e3": ("G2", same, lambda z: 1e3 * z),
    "logits × 1e-6": ("G5", same, lambda z: 1e-6 * z),
    "softmax": ("G5", same, lambda z: z.softmax(1)),
    "gradient of wrong sign": ("G3", lambda x: WrongGradient.apply(x, torch.neg), same),
    "gradient shuffled": ("G3", lambda x: WrongGradient.apply(x, shuffled), same),
    "gradient × 1.3": ("G3", lambda x: WrongGradient.apply(x, lambda g: 1.3 * g), same),
    "sine before the network": ("G3", lambda x: x + 0.01 * torch.sin(500 * x), same),
    "inputs rounded to 16 levels": ("G1", lambda x: (15 * x).round() / 15, same),
    "rounded, gradient of the identity": ("G3", lambda x: x + ((15 * x).round() / 15 - x).detach(), same),
    "logits rounded": ("G1", same, lambda z: (8 * z).round() / 8),
}
HONEST: Final = ("autoattack_l2", "pgd_l2")  # the row's attack
# The row's attack, too weak: name to the check that must fail.
WEAK: Final = {"fgsm_l2": "A2", "noise_l2": "A2"}


@dataclass(frozen=True)
class Unit:
    """One network, one block of images, and what is wrong with either the network or the row's attack.

    Attributes:
        network: name; `data:defense:seed` or `nets:name`.
        block: number of the block.
        fault: key of `FAULTS`, "purification", or "".
        attack: evaluation that is the row's attack, "" for none.
    """

    network: str
    block: int
    fault: str = ""
    attack: str = ""

    @property
    def expected(self) -> str:
        """The check that must fail, "" for an honest unit."""
        if self.fault:
            return "D1" if self.fault == "purification" else FAULTS[self.fault][0]
        return WEAK.get(self.attack, "")


def images(network: str, folder: Path | None, size: int, train_limit: int | None) -> Dataset:
    """Return the data set of a network."""
    if network.startswith("digits"):
        return load("digits", limit=size)
    assert folder is not None
    return load("cifar10", data_dir=folder / "cifar10-jpeg", limit=size, train_limit=train_limit, need_train=True)


def build(network: str, folder: Path | None, weights: Path) -> nn.Module:
    """Return a network, trained once and kept in a folder of weights."""
    kind, name, seed = (*network.split(":"), "0")[:3]
    if kind == "nets":
        assert folder is not None
        return Foreign(folder / "nets", name).eval()
    small = Recipe(epochs=30 if kind == "digits" else 20, batch_size=64, schedule="onecycle", augment="none")
    data = images(network, folder, 1, None if kind == "digits" else 4096)
    entry = registry.defenses.get(name)
    backbone = "convnet" if kind == "digits" else "resnet18-w8"
    recipe = PAPER.with_overrides(small, entry.recipe)
    job = TrainJob(entry, dict(entry.hyperparameters), recipe, backbone, 10, data.shape, int(seed), data.train)
    path = weights / f"{network.replace(':', '-')}.pt"
    if not path.exists():
        device = torch.device("cuda" if kind == "cifar" and torch.cuda.is_available() else "cpu")
        torch.save({k: v.cpu() for k, v in train(job, device).state_dict().items()}, path)
    model = job.build()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def examine(unit: Unit, folder: Path | None, weights: Path) -> dict[str, Any]:
    """Return what the checks say of a unit, as plain data."""
    torch.set_num_threads(1)
    started = time.process_time()
    model = build(unit.network, folder, weights)
    data = images(unit.network, folder, BLOCK * (unit.block + 1), 1).test
    part = slice(BLOCK * unit.block, None)
    x, y = torch.tensor(data.pixels()[part]), torch.tensor(data.labels[part])
    if unit.fault == "purification":
        model = Faulty(model, partial(purified, model), same)
    elif unit.fault:
        model = Faulty(model, *FAULTS[unit.fault][1:])
    device = "cuda" if unit.network.startswith("cifar") and torch.cuda.is_available() else "cpu"
    radius = EPS["digits" if unit.network.startswith("digits") else "cifar10"]
    names = ["accuracy", *([unit.attack] if unit.attack else []), "trust"]
    table = bench.evaluate(model, data=(x, y), evaluations=names, eps=radius, device=device)
    cost = {name: entry["seconds"] for name, entry in table.attrs["cost"].items()}
    found = {name: [c["verdict"], c["value"]] for name, c in table.attrs["trust"]["checks"].items()}
    left = float(table["trust_survivor"].mean())
    ends = {name: float(table[f"trust_{name}"].quantile(0.95)) for name in ENDS}
    robust = {f: float(table[f"trust_e1_robust_{f}"].mean()) for f in ("0.25", "0.5", "1", "2", "4")}
    return {
        **vars(unit),
        "expected": unit.expected,
        "checks": found,
        "cost": cost,
        "left": left,
        "robust": robust,
        "ends": ends,
        "clean": float(table["clean_correct"].mean()),
        "seconds": time.process_time() - started,
    }


def units(networks: Sequence[str], blocks: int) -> Iterator[Unit]:
    """Yield every unit: honest ones on every block with either attack, faulty ones on the first block."""
    for network in networks:
        yield from (Unit(network, block, attack=attack) for block in range(blocks) for attack in HONEST)
        yield from (Unit(network, 0, fault=fault) for fault in (*FAULTS, "purification"))
        yield from (Unit(network, 0, attack=attack) for attack in WEAK)


def rate(k: int, n: int) -> str:
    """Return a share with its interval, in per cent."""
    if not n:
        return "none"
    low, high = clopper_pearson(k, n)
    return f"{k} of {n} [{100 * low:.1f}, {100 * high:.1f}] %"


def report(found: Sequence[dict[str, Any]]) -> None:
    """Print the tables in Markdown."""
    honest = [u for u in found if u["attack"] == HONEST[0]]
    print(f"{len({u['network'] for u in honest})} honest networks, {len(honest)} units of {BLOCK} images\n")
    print("| check | false alarms | not assessable | largest honest value | threshold |\n|---|---|---|---|---|")
    for check in checks():
        of = [u["checks"][check.name] for u in honest]
        known = [value for verdict, value in of if verdict != "not assessable"]
        values = [v for v in known if v is not None]
        alarms = sum(verdict == "fail" for verdict, _ in of)
        largest = f"{max(values):.3g}" if values else "–"
        print(f"| {check.name} {check.title} | {rate(alarms, len(known))} | {len(of) - len(known)} | {largest} | |")
    alone = [u for u in found if u["attack"] == HONEST[1]]
    short = sum(u["checks"]["A2"][0] == "fail" for u in alone)
    print(
        f"\nPGD alone in AutoAttack's place: A2 finds that it had not converged on {rate(short, len(alone))} of units"
    )
    print("\n| fault | check | misses | smallest value | other checks that fail |\n|---|---|---|---|---|")
    for fault in dict.fromkeys((u["fault"] or u["attack"], u["expected"]) for u in found if u["expected"]):
        of_fault = [u for u in found if (u["fault"] or u["attack"], u["expected"]) == fault]
        results = [u["checks"][fault[1]] for u in of_fault]
        missed = sum(verdict != "fail" for verdict, _ in results)
        values = [v for _, v in results if v is not None]
        smallest = f"{min(values):.3g}" if values else "–"
        others: dict[str, int] = {}
        for u in of_fault:
            for name, (verdict, _) in u["checks"].items():
                if verdict == "fail" and name != fault[1]:
                    others[name] = others.get(name, 0) + 1
        listed = ", ".join(f"{n} {k}" for n, k in sorted(others.items()))
        print(f"| {fault[0]} | {fault[1]} | {rate(missed, len(results))} | {smallest} | {listed} |")
    ratios = [u["cost"]["trust"] / u["cost"][HONEST[0]] for u in honest]
    if ratios:
        low, high = min(ratios), max(ratios)
        for name in ENDS:
            ends = sorted(u["ends"][name] for u in honest if u["ends"][name] == u["ends"][name])
            print(f"{name}, 95 % quantile over survivors: median {ends[len(ends) // 2]:.3g}, largest {ends[-1]:.3g}")
        print(f"\ncost of trust over that of AutoAttack: {low:.2f} to {high:.2f}, {len(ratios)} networks")


def main() -> None:
    """Measure, save and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--weights", type=Path, default=Path("results/trust-weights"))
    parser.add_argument("--save", type=Path)
    parser.add_argument("--read", type=Path)
    options = parser.parse_args()
    if options.read:
        report(json.loads(options.read.read_text()))
        return
    networks = [f"digits:{d}:{seed}" for d in DEFENSES for seed in range(options.seeds)]
    if options.data:
        own = [f"cifar:{d}:0" for d in ("standard", "lcnn", "adversarial_training")]
        foreign = tomllib.loads((options.data / "nets/nets.toml").read_text())
        networks = [*(f"nets:{n}" for n in foreign), *own, *networks]
    options.weights.mkdir(parents=True, exist_ok=True)
    found = []
    with multiprocessing.get_context("spawn").Pool(options.workers) as pool:
        pool.starmap(partial(build), [(n, options.data, options.weights) for n in networks], chunksize=1)
        work = partial(examine, folder=options.data, weights=options.weights)
        for result in pool.imap_unordered(work, list(units(networks, options.blocks))):
            found.append(result)
            failed = [n for n, (verdict, _) in result["checks"].items() if verdict == "fail"]
            label = result["fault"] or result["attack"]
            print(f"{result['network']} {result['block']} {label} {failed} {result['seconds']:.0f} s", flush=True)
            if options.save:
                options.save.write_text(json.dumps(found))
    report(found)


if __name__ == "__main__":
    main()
