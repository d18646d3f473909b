"""Build the network of a defense from a seed: the same network in every process, whatever it keeps and where."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from bench.attacks.core.draws import RandomisedModel
from bench.core.errors import UsageError
from bench.core.records import Defense
from bench.core.seeding import derive, seed_everything
from bench.core.torch_state import eval_mode


def build_network(
    defense: Defense,
    hyperparameters: Mapping[str, object],
    *,
    num_classes: int,
    shape: tuple[int, int, int],
    backbone: str,
    seed: int,
) -> nn.Module:
    """Return the untrained network of a defense, initialised from the seed alone.

    Python's, numpy's and torch's generators are seeded before the factory is called, so that everything it draws is
    the same whenever the network is built: parameters, buffers that are not saved, plain attributes.

    Args:
        defense: the registered defense.
        hyperparameters: all of its hyper-parameters.
        num_classes: K.
        shape: (C, H, W) of an image.
        backbone: name of the backbone.
        seed: the training seed.

    Returns:
        The network; of a randomised defense with its votes around it.

    Raises:
        UsageError: the factory returns no module, or parameters whose shapes images do not determine.
    """
    seed_everything(derive("initialisation", seed))
    model = defense.function(num_classes, shape, backbone, **hyperparameters)
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"defense {defense.name}: expected a torch.nn.Module, got {type(model).__name__}. Return the network."
        )
    if _lazy_names(model):
        _materialise(model, defense.name, shape)
    return RandomisedModel(model) if defense.randomised else model


def _materialise(model: nn.Module, name: str, shape: tuple[int, int, int]) -> None:
    """Give the parameters of lazy modules their shapes by a pass over two images.

    Raises:
        UsageError: the pass fails, or some parameters still have no shape.
    """
    try:
        with eval_mode(model), torch.no_grad():
            model(torch.zeros(2, *shape))
        problem = ", ".join(_lazy_names(model)[:3])
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if problem:
        raise UsageError(
            f"defense {name}: expected lazy modules that a pass over images of shape {shape} initialises, got "
            f"{problem}. Give the modules their sizes."
        )


def _lazy_names(model: nn.Module) -> list[str]:
    """Return the names of the parameters and buffers that have no shape yet."""
    tensors = itertools.chain(model.named_parameters(), model.named_buffers())
    return [name for name, tensor in tensors if is_lazy(tensor)]
