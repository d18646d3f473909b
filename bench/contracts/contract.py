"""A contract: named promises of one entry, each kept or broken with a cause."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import nn

from bench.core import registry
from bench.core.errors import BenchError
from bench.core.recipe import PAPER, Recipe, TrainingRecipe
from bench.core.records import Attack, Defense
from bench.core.text import described
from bench.data import catalog
from bench.data.split import Dataset
from bench.training.loop import TrainJob, train

CPU: Final = torch.device("cpu")
TRAINING_IMAGES: Final = 97  # so that the last batch of 32 has one image
TEST_IMAGES: Final = 64


class Broken(BenchError):
    """An entry breaks a promise of its contract."""


class Promise(Protocol):
    """One promise of an entry."""

    def __call__(self) -> None:
        """Return if it is kept.

        Raises:
            Broken: it is not.
        """
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """A promise in words, and how it is broken; "" where it is kept."""

    promise: str
    problem: str


def verdicts(promises: Mapping[str, Promise]) -> Iterator[Verdict]:
    """Try every promise, and yield what became of it.

    Args:
        promises: in words, to what tries it.

    Yields:
        The verdict on each, in their order.
    """
    for words, promise in promises.items():
        try:
            promise()
        except BenchError as error:
            yield Verdict(words, str(error))
        except Exception as error:
            yield Verdict(words, described(error, 500))
        else:
            yield Verdict(words, "")


def require(kept: bool, problem: str) -> None:
    """Return if a condition holds.

    Args:
        kept: the condition.
        problem: `expected <what>, got <value>. <what to do>.`

    Raises:
        Broken: it does not.
    """
    if not kept:
        raise Broken(problem)


class OnDigits:
    """What the contracts share: a few digits, and a small network that was trained on them.

    Args:
        data: digits; None: they are loaded.
    """

    def __init__(self, data: Dataset | None) -> None:
        self._given_data = data

    @functools.cached_property
    def _data(self) -> Dataset:
        return self._given_data or digits()

    def _trained_network(self) -> nn.Module:
        """Return a network with softplus activations, trained for a second."""
        job = short_training(registry.defenses.get("lcnn"), self._data, Recipe(epochs=8, batch_size=32))
        return train(job, CPU)


def digits() -> Dataset:
    """Return the few digits on which contracts are tried."""
    return catalog.load("digits", train_limit=TRAINING_IMAGES, limit=TEST_IMAGES)


def require_documented(entry: Defense | Attack, what: str, argument: str, open_ones: Collection[str] = ()) -> None:
    """Ask for a source, a docstring, and a default of every argument.

    Args:
        entry: the defense or attack.
        what: it is called in messages.
        argument: what its arguments are called.
        open_ones: arguments that need no default.

    Raises:
        Broken: one is missing.
    """
    require(bool(entry.source), "expected source=, got none. Name paper and place.")
    require(bool(entry.description), f"expected a docstring, got none. Say what the {what} does.")
    bare = [name for name, value in entry.hyperparameters.items() if value is ... and name not in open_ones]
    require(not bare, f"expected a default of every {argument}, got none of {', '.join(bare)}.")


def short_training(entry: Defense, data: Dataset, recipe: Recipe | None = None) -> TrainJob:
    """Return a training of a few steps of a defense on a small network, with its own loss and recipe.

    Args:
        entry: the defense.
        data: what it is trained on.
        recipe: what else is set; None: one epoch in batches of 32.
    """
    short = Recipe(epochs=1, batch_size=32, schedule="onecycle", augment="none", precision="fp32")
    settings: TrainingRecipe = PAPER.with_overrides(short, entry.recipe, recipe or Recipe(epochs=1, batch_size=32))
    classes = len(data.classes)
    return TrainJob(entry, dict(entry.hyperparameters), settings, "convnet", classes, data.shape, 0, data.train)
