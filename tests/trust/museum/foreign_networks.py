"""Honest: four small CIFAR-10 networks that other people trained for robustness."""

import tomllib
from functools import partial

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from bench.museum.exhibit import Exhibit
from bench.museum.networks import Networks

NAMES = {
    "wong2018-l2-36": "certified l2 training (Wong et al. 2018)",
    "oval-base": "certified linf training (Wong and Kolter 2018)",
    "sdp-adv": "linf adversarial training",
    "sdp-mix": "mixed natural and robust training",
}


class Foreign(nn.Module):
    """conv (4×4, stride 2) ReLU conv (4×4, stride 2) ReLU linear ReLU linear, on normalised images."""

    def __init__(self, weights: dict[str, Tensor], mean: list[float], std: list[float], padding: int) -> None:
        super().__init__()
        self.weights = nn.ParameterDict({k.replace(".", "_"): nn.Parameter(v) for k, v in weights.items()})
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        z, w = (x - self.mean) / self.std, self.weights
        for layer in ("conv1", "conv2"):
            z = F.conv2d(z, w[f"{layer}_weight"], w[f"{layer}_bias"], stride=2, padding=self.padding).relu()
        z = F.linear(z.flatten(1), w["fc1_weight"], w["fc1_bias"]).relu()
        return F.linear(z, w["fc2_weight"], w["fc2_bias"])


def foreign(networks: Networks, name: str) -> nn.Module:
    """Load one of them from the folder of foreign networks."""
    facts = tomllib.loads((networks.foreign / "nets.toml").read_text())[name]
    weights = load_file(networks.foreign / f"{name}.safetensors")
    return Foreign(weights, facts["mean"], facts["std"], facts["padding"]).eval()


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
