"""Networks for the exhibits: trained on scikit-learn's digits in seconds, each once per process."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from bench.core import registry
from bench.core.errors import UsageError
from bench.core.recipe import PAPER, LossFunction, Recipe
from bench.core.records import Defense
from bench.core.torch_state import known_state, threads_for
from bench.data import catalog
from bench.data.split import Split
from bench.training.loop import TrainJob, train

BACKBONE: Final = "convnet-w8"
CLASSES: Final = 10
SHAPE: Final = (1, 8, 8)
RECIPE: Final = Recipe(epochs=12, batch_size=64, schedule="onecycle", augment="none")
NETS: Final = "nets"  # folder of the networks that other people trained


class Networks:
    """Data and trained networks for building exhibits.

    Args:
        folder: where `nets/` and `cifar10-jpeg/` are looked for; None: exhibits on other data than digits are skipped.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._digits = catalog.load("digits")
        self._trained: dict[str, nn.Module] = {}

    @property
    def train_images(self) -> Tensor:
        """The 1,437 digits to train on, (N, 1, 8, 8)."""
        return torch.tensor(self._digits.train.images)

    @property
    def train_labels(self) -> Tensor:
        """Their labels, (N,)."""
        return torch.tensor(self._digits.train.labels)

    def images(self, data: str, limit: int) -> tuple[Tensor, Tensor]:
        """Return the first test images (N, C, H, W) in [0, 1] of a data set and their labels (N,)."""
        split = self._split(data, limit)
        return torch.tensor(split.pixels()), torch.tensor(split.labels)

    def missing(self, data: str) -> str:
        """Return why a data set of the exhibits is not there, "" if it is."""
        if data == "digits":
            return ""
        if self._folder is None or not (self._folder / data).is_dir() or not (self._folder / NETS).is_dir():
            where = "no folder was given" if self._folder is None else f"{self._folder} has not both"
            return f"needs the folders {data}/ and {NETS}/ (--data DIR); {where}"
        return ""

    @property
    def foreign(self) -> Path:
        """The folder of the networks that other people trained.

        Raises:
            UsageError: no folder was given.
        """
        if self._folder is None:
            raise UsageError(f"museum: expected a folder with {NETS}/, got none. Give --data DIR.")
        return self._folder / NETS

    def trained(self, defense: str = "standard", **hyperparameters: object) -> nn.Module:
        """Return a registered defense trained on digits, a copy of its own, in eval mode."""
        key = repr((defense, sorted(hyperparameters.items())))
        if key not in self._trained:
            self._trained[key] = self._train(registry.defenses.get(defense), hyperparameters)
        return copy.deepcopy(self._trained[key])

    def fit(
        self,
        make: Callable[[], nn.Module],
        loss: LossFunction | None = None,
        *,
        epochs: int | None = None,
        seed: int = 0,
    ) -> nn.Module:
        """Train any network on digits with the same recipe.

        Args:
            make: makes the untrained network.
            loss: `loss(model, x (B, C, H, W), y (B,)) -> {term: scalar}`; None: cross-entropy.
            epochs: other than the recipe's.
            seed: of the initialisation and the batches.

        Returns:
            The network in eval mode.
        """

        def factory(num_classes: int, in_shape: tuple[int, int, int], backbone: str) -> nn.Module:
            return make()

        return self._train(Defense("exhibit", factory, "", 1, recipe=Recipe(loss=loss, epochs=epochs)), {}, seed)

    def _train(self, entry: Defense, hyperparameters: Mapping[str, object], seed: int = 0) -> nn.Module:
        recipe = PAPER.with_overrides(RECIPE).with_overrides(entry.recipe)
        settings = {**entry.hyperparameters, **hyperparameters}
        job = TrainJob(entry, settings, recipe, BACKBONE, CLASSES, SHAPE, seed, self._digits.train)
        with known_state(), threads_for(self._digits.train.images[0].size), torch.random.fork_rng(devices=[]):
            return train(job, torch.device("cpu"))

    def _split(self, data: str, limit: int) -> Split:
        if data == "digits":
            return self._digits.test.first(limit)
        assert self._folder is not None  # narrows the type; `missing` has said so before
        return catalog.load("cifar10", data_dir=self._folder / data, limit=limit, need_train=False).test
