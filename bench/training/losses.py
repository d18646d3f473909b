"""The loss of a training: a recipe's function with the hyper-parameters that it asks for."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

from torch import nn

from bench.core.recipe import LossFunction
from bench.training.gradients import Loss


def bound_loss(loss: LossFunction | None, hyperparameters: Mapping[str, object]) -> Loss:
    """Return a recipe's loss with the hyper-parameters that its signature names.

    Args:
        loss: see `bench.Recipe`; None: mean cross-entropy.
        hyperparameters: all of the defense's.
    """
    if loss is None:
        return lambda model, x, y: {"cross_entropy": nn.functional.cross_entropy(model(x), y)}
    names = inspect.signature(loss).parameters
    arguments = {k: v for k, v in hyperparameters.items() if k in names}
    return lambda model, x, y: loss(model, x, y, **arguments)
