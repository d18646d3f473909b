"""Parameter groups and the learning rate of a step."""

from __future__ import annotations

from typing import Any

from torch import nn

from bench.core.recipe import TrainingRecipe

WARMUP_FRACTION = 0.25  # share of a one-cycle schedule in which the learning rate rises


ParameterGroup = dict[str, Any]  # what torch's optimisers take: `params`, and settings of their own


def parameter_groups(model: nn.Module, weight_decay: float) -> list[ParameterGroup]:
    """Return SGD's parameter groups, with and without weight decay.

    Args:
        model: a module's attribute `no_weight_decay` names its own parameters that are exempt.
        weight_decay: l2 penalty on all others.
    """
    exempt = {
        id(p)
        for module in model.modules()
        for name, p in module.named_parameters(recurse=False)
        if name in getattr(module, "no_weight_decay", ())
    }
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[ParameterGroup] = [
        {"params": [p for p in parameters if id(p) not in exempt], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) in exempt], "weight_decay": 0.0},
    ]
    return [g for g in groups if g["params"]]


def learning_rate(recipe: TrainingRecipe, step: int, per_epoch: int) -> float:
    """Return the learning rate of a step (counted from 0).

    "step": lr · decay^m after m milestones, at epochs int(milestone · epochs). "onecycle": linear from lr/25 to lr
    over the first quarter of the steps, then linear to 0.

    Args:
        recipe: schedule, peak learning rate and number of epochs.
        step: counted from the start of the training.
        per_epoch: steps of an epoch.
    """
    lr, epochs = recipe.lr, recipe.epochs
    if recipe.schedule == "step":
        passed = sum(step // per_epoch >= int(m * epochs) for m in recipe.milestones)
        return lr * recipe.decay**passed
    at, peak, total = step + 0.5, WARMUP_FRACTION * epochs * per_epoch, epochs * per_epoch
    return lr * (0.04 + 0.96 * at / peak) if at < peak else lr * max(0.0, (total - at) / (total - peak))
