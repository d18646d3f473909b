"""Networks, faults and what is measured of them, for `python -m benchmarks.trust`."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import bench
from bench.attacks.core.draws import RandomisedModel
from bench.attacks.pgd import pgd
from bench.core import registry
from bench.core.errors import BenchError
from bench.core.recipe import PAPER, Recipe
from bench.data.catalog import load
from bench.data.split import Dataset
from bench.training.loop import TrainJob, train
from bench.trust.binarisation import binarisation
from bench.trust.readout import feature_count

Found = dict[str, Any]  # one unit, as plain data

BLOCK: Final = 64  # images of a unit
BLOCK_OF_VOTES: Final = 32  # where an answer is 100 passes; as in the suite `randomised`
EPS: Final = {"digits": 0.5, "votes": 0.5, "cifar": 0.25, "nets": 0.25}  # l2
DEFENSES: Final = ("standard", "lcnn", "gradreg", "adversarial_training")
SIGMAS: Final = ("0.12", "0.25", "0.5")  # of the noise of smoothed networks
WIDTHS: Final = (2, 4, 6, 8, 12, 16)  # of networks for T1; their last layers take twice as many features
# Quantiles of columns of trust that thresholds are about: over the images of a unit where they are known.
QUANTILES: Final[Mapping[str, float]] = {
    "a2_late_rise": 0.95,
    "g6_stationarity": 0.95,
    "r1_batch_difference": 1.0,
    "r3_agreement": 0.05,
}


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


class CoarseFeatures(nn.Module):
    """A network's logits rounded to whole numbers, spread over many features, and a last layer that undoes that.

    The gradient is the network's own.
    """

    def __init__(self, network: nn.Module, features: int = 32, classes: int = 10) -> None:
        super().__init__()
        self.network = network
        spread = torch.linalg.qr(torch.randn(features, classes, generator=torch.Generator().manual_seed(0))).Q
        self.register_buffer("spread", spread)
        self.last = nn.Linear(features, classes, bias=False)
        self.last.weight.data = spread.T.clone()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, K)."""
        z: Tensor = self.network(x)
        return self.last((z + (z.round() - z).detach()) @ self.spread.T)


def same(x: Tensor) -> Tensor:
    """Return x."""
    return x


def shuffled(gradient: Tensor) -> Tensor:
    """Return a gradient (B, …) with its entries in another, fixed order."""
    flat = gradient.flatten(1)
    order = torch.randperm(flat.shape[1], generator=torch.Generator().manual_seed(0))
    return flat[:, order].view_as(gradient)


def of_random_sign(gradient: Tensor) -> Tensor:
    """Return a gradient (B, C, H, W) with a sign that is drawn anew for every image."""
    return gradient * (2 * torch.randint(0, 2, (len(gradient), 1, 1, 1)) - 1)


def by_chance(logits: Tensor) -> Tensor:
    """Return random logits (B, K) 24 times of 25."""
    return torch.where(torch.rand(len(logits), 1) < 0.96, torch.randn_like(logits) + 0.02 * logits, logits)


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
# The same for networks that answer at random.
RANDOM_FAULTS: Final[dict[str, tuple[str, Callable[..., Tensor], Callable[..., Tensor]]]] = {
    "gradient of random sign": ("R3", lambda x: WrongGradient.apply(x, of_random_sign), same),
    "gradient shuffled, random": ("G3", lambda x: WrongGradient.apply(x, shuffled), same),
    "rounded at random": ("G1", lambda x: (4 * x + torch.rand_like(x)).floor() / 4, same),
    "answers by chance": ("R1", same, by_chance),
    "answers by the other images": ("R1", lambda x: x + 2 * (x - x.mean(0, keepdim=True)), same),
}
OTHER_FAULTS: Final = {"purification": "D1", "one draw per gradient": "R2"}  # not before or behind the network
HONEST: Final = ("autoattack_l2", "pgd_l2")  # the row's attack
# The row's attack, too weak: name to the check that must fail, on the deterministic and on the randomised track.
WEAK: Final = {"fgsm_l2": ("A2", "R2"), "noise_l2": ("A2", "R2")}


@dataclass(frozen=True)
class Unit:
    """One network, one block of images, and what is wrong with either the network or the row's attack.

    Attributes:
        network: name; `data:defense:seed`, `nets:name`, or `votes:sigma:seed` for smoothing.
        block: number of the block.
        fault: key of `FAULTS`, `RANDOM_FAULTS` or `OTHER_FAULTS`, or "".
        attack: evaluation that is the row's attack, "" for none.
    """

    network: str
    block: int
    fault: str = ""
    attack: str = ""

    @property
    def votes(self) -> bool:
        """Whether the network answers at random and is judged by votes."""
        return self.network.startswith("votes")

    @property
    def size(self) -> int:
        """Number of images."""
        return BLOCK_OF_VOTES if self.votes else BLOCK

    @property
    def expected(self) -> str:
        """The check that must fail, "" for an honest unit."""
        if self.fault in OTHER_FAULTS:
            return OTHER_FAULTS[self.fault]
        if self.fault:
            return (RANDOM_FAULTS if self.votes else FAULTS)[self.fault][0]
        return WEAK[self.attack][self.votes] if self.attack in WEAK else ""


def images(network: str, folder: Path | None, size: int, train_limit: int | None) -> Dataset:
    """Return the data set of a network."""
    if network.startswith(("digits", "votes")):
        return load("digits", limit=size)
    assert folder is not None
    return load("cifar10", data_dir=folder / "cifar10-jpeg", limit=size, train_limit=train_limit, need_train=True)


def build(network: str, folder: Path | None, weights: Path) -> nn.Module:
    """Return a network, trained once and kept in a folder of weights."""
    kind, name, seed, backbone = (*network.split(":"), *("0", "")[network.count(":") - 1 :])[:4]
    if kind == "nets":
        assert folder is not None
        return Foreign(folder / "nets", name).eval()
    cifar = kind == "cifar"
    small = Recipe(epochs=20 if cifar else 30, batch_size=64, schedule="onecycle", augment="none")
    data = images(network, folder, 1, 4096 if cifar else None)
    settings = {"sigma": float(name)} if kind == "votes" else {}
    entry = registry.defenses.get("smoothing" if kind == "votes" else name)
    recipe = PAPER.with_overrides(small, entry.recipe)
    backbone = backbone or ("resnet18-w8" if cifar else "convnet")
    settings = {**entry.hyperparameters, **settings}
    job = TrainJob(entry, settings, recipe, backbone, 10, data.shape, int(seed), data.train)
    path = weights / f"{network.replace(':', '-')}.pt"
    if not path.exists():
        device = torch.device("cuda" if cifar and torch.cuda.is_available() else "cpu")
        torch.save({k: v.cpu() for k, v in train(job, device).state_dict().items()}, path)
    model = job.build()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


def with_fault(model: nn.Module, unit: Unit) -> nn.Module:
    """Return a unit's network with its fault; a randomised one declared as such."""
    network = model.network if isinstance(model, RandomisedModel) else model
    assert isinstance(network, nn.Module)  # an attribute of a module, for mypy
    if unit.fault == "purification":
        network = Faulty(network, partial(purified, network), same)
    elif unit.fault and unit.fault not in OTHER_FAULTS:
        network = Faulty(network, *(RANDOM_FAULTS if unit.votes else FAULTS)[unit.fault][1:])
    if not unit.votes:
        return network
    draws = {"draws": 1} if unit.fault == "one draw per gradient" else {}
    return RandomisedModel(network, **draws).eval()


def examine(unit: Unit, folder: Path | None, weights: Path) -> Found:
    """Return what the checks say of a unit, as plain data."""
    torch.set_num_threads(1)
    started = time.process_time()
    model = with_fault(build(unit.network, folder, weights), unit)
    data = images(unit.network, folder, unit.size * (unit.block + 1), 1).test
    part = slice(unit.size * unit.block, None)
    x, y = torch.tensor(data.pixels()[part]), torch.tensor(data.labels[part])
    kind = unit.network.partition(":")[0]
    device = "cuda" if kind == "cifar" and torch.cuda.is_available() else "cpu"
    names = ["accuracy", *([unit.attack] if unit.attack else []), "trust"]
    found: Found = {**vars(unit), "expected": unit.expected, "checks": {}, "refused": ""}
    try:
        table = bench.evaluate(model, data=(x, y), evaluations=names, eps=EPS[kind], device=device)
    except BenchError as error:
        return found | {"refused": " ".join(str(error).split()), "seconds": time.process_time() - started}
    numbers = {name: table[f"trust_{name}"].dropna() for name in QUANTILES}
    return found | {
        "checks": {name: [c["verdict"], c["value"]] for name, c in table.attrs["trust"]["checks"].items()},
        "cost": {name: entry["seconds"] for name, entry in table.attrs["cost"].items()},
        "left": float(table["trust_survivor"].mean()),
        "robust": {f: float(table[f"trust_e1_robust_{f}"].mean()) for f in ("0.25", "0.5", "1", "2", "4")},
        "ends": {n: float(values.quantile(QUANTILES[n])) for n, values in numbers.items() if len(values)},
        "clean": float(table["clean_correct"].mean()),
        "seconds": time.process_time() - started,
    }


def plant(network: str, coarse: bool, weights: Path) -> Found:
    """Return on how many images an example can be planted behind a network's last layer, and how many PGD finds.

    Args:
        network: `digits:defense:seed:backbone`.
        coarse: whether its features are rounded, as `CoarseFeatures`.
        weights: folder of trained networks.
    """
    torch.set_num_threads(1)
    model = build(network, None, weights)
    model = CoarseFeatures(model).eval() if coarse else model
    data = images(network, None, BLOCK, 1).test
    x, y = torch.tensor(data.pixels()), torch.tensor(data.labels)
    found, _, planted = binarisation(model, x, y, eps=EPS["digits"], norm="l2", seed=0, attack=pgd)
    features = feature_count(model, x[:4], BLOCK)
    return {
        "network": network,
        "coarse": coarse,
        "features": features,
        "images": len(x),
        "planted": int(planted.sum()),
        "found": int(np.asarray(found & planted).sum()),
    }


def networks(folder: Path | None, seeds: int, resnets: bool) -> list[str]:
    """Return the names of the networks, those that take least time first.

    Args:
        folder: of the CIFAR-10 images and foreign networks; None: digits alone.
        seeds: of each defense on digits.
        resnets: whether small ResNets are trained on CIFAR-10 images; that takes a GPU or hours.
    """
    found = [f"votes:{sigma}:{seed}" for sigma in SIGMAS for seed in range(seeds)]
    found += [f"digits:{defense}:{seed}" for defense in DEFENSES for seed in range(seeds)]
    if folder is not None:
        found += [f"nets:{name}" for name in tomllib.loads((folder / "nets/nets.toml").read_text())]
        found += [f"cifar:{d}:0" for d in ("standard", "lcnn", "adversarial_training")] if resnets else []
    return found


def units(names: Sequence[str], blocks: int) -> Iterator[Unit]:
    """Yield every unit: honest ones on every block with either attack, faulty ones on the first block."""
    for network in names:
        votes = Unit(network, 0).votes
        honest = HONEST[:1] if votes else HONEST
        yield from (Unit(network, block, attack=attack) for block in range(blocks) for attack in honest)
        faults = (*RANDOM_FAULTS, "one draw per gradient") if votes else (*FAULTS, "purification")
        yield from (Unit(network, 0, fault=fault) for fault in faults)
        yield from (Unit(network, 0, attack=attack) for attack in WEAK)


def narrow(seeds: int) -> Iterator[tuple[str, bool]]:
    """Yield networks with few features in their last layer, for `plant`, and wide ones whose features are rounded."""
    for defense in ("standard", "adversarial_training"):
        for seed in range(seeds):
            yield from ((f"digits:{defense}:{seed}:convnet-w{width}", False) for width in WIDTHS)
            yield f"digits:{defense}:{seed}:convnet-w{WIDTHS[-1]}", True
