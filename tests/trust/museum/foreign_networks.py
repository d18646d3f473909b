"""Honest: four small CIFAR-10 networks that other people trained for robustness."""

import tomllib
from functools import partial

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.museum.exhibit import Exhibit
from bench.museum.networks import Networks

NAMES = {
    "wong2018-l2-36": "certified l2 training (Wong et al. 2018)",
    "oval-base": "certified linf training (Wong and Kolter 2018)",
    "sdp-adv": "linf adversarial training",
    "sdp-mix": "mixed natural and robust training",
}


class Normalised(nn.Module):
    """Pixels in [0, 1] minus the mean over the deviation, per channel."""

    def __init__(self, mean: list[float], std: list[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def foreign(networks: Networks, name: str) -> nn.Module:
    """Load one of them: two convolutions (4×4, stride 2) and two linear layers, with ReLU in between."""
    facts = tomllib.loads((networks.foreign / "nets.toml").read_text())[name]
    weights = load_file(networks.foreign / f"{name}.safetensors")
    layers: list[nn.Module] = [Normalised(facts["mean"], facts["std"])]
    for key in ("conv1", "conv2", "fc1", "fc2"):
        weight, bias = weights[f"{key}.weight"], weights[f"{key}.bias"]
        out, into = weight.shape[:2]
        is_conv = key.startswith("conv")
        layer = nn.Conv2d(into, out, 4, 2, facts["padding"]) if is_conv else nn.Linear(into, out)
        layer.load_state_dict({"weight": weight, "bias": bias})
        layers += [*([nn.Flatten()] if key == "fc1" else []), layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


EXHIBITS = tuple(
    Exhibit(
        name,
        "honest",
        partial(foreign, name=name),
        idea=f"Classify CIFAR-10 as trained by others: {what}.",
        source="github locuslab/convex_adversarial" if name.startswith("wong") else "github alpha-beta-CROWN",
        data="cifar10-jpeg",
    )
    for name, what in NAMES.items()
)
