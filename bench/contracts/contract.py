"""A contract: named promises of one entry, each kept or broken with a cause."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import torch

from bench.core.errors import BenchError
from bench.core.recipe import PAPER, Recipe, TrainingRecipe
from bench.core.records import Defense
from bench.core.text import described
from bench.data import catalog
from bench.data.split import Dataset
from bench.training.loop import TrainJob

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


def digits() -> Dataset:
    """Return the few digits on which contracts are tried."""
    return catalog.load("digits", train_limit=TRAINING_IMAGES, limit=TEST_IMAGES)


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
