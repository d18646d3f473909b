"""What every registered evaluation must do with a model that is not on the CPU: stay where the model is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from bench.core import registry
from bench.core.recipe import PAPER, Recipe
from bench.data.catalog import load
from bench.training.batches import Batches
from bench.training.loop import TrainJob, train
from tests.contracts.elsewhere import elsewhere, sent
from tests.contracts.tables import CPU, table

# `boundary` takes points in the plane; an audit is another package's code; what has needs reads other cells.
NAMES = [
    e.name for e in registry.evaluations if e.name != "boundary" and not e.name.startswith("audit") and not e.needs
]


@pytest.fixture(scope="module")
def digits():
    return load("digits", train_limit=200, limit=6)


@pytest.fixture(scope="module")
def models(digits):
    found = {}
    for name in ("lcnn", "vanilla"):
        entry = registry.defenses.get(name)
        recipe = PAPER.with_overrides(
            Recipe(epochs=8, batch_size=50, schedule="onecycle", augment="none"), entry.recipe
        )
        found[name] = train(
            TrainJob(entry, dict(entry.hyperparameters), recipe, "convnet", 10, digits.shape, 0, digits.train), CPU
        )
    return found


@pytest.mark.parametrize("defense", ["lcnn", "vanilla"])
@pytest.mark.parametrize("name", NAMES)
def test_it_stays_on_the_models_device_and_finds_the_same(name, defense, models, digits, monkeypatch):
    with elsewhere(monkeypatch) as device:
        found = table(name, sent(models[defense]), digits.test, device)
    want = table(name, models[defense], digits.test)
    assert list(found) == list(want)
    for column in want:
        if pd.api.types.is_bool_dtype(want[column]):
            assert list(found[column]) == list(want[column]), column
        elif "distance" not in column and pd.api.types.is_float_dtype(want[column]):
            np.testing.assert_allclose(found[column], want[column], rtol=1e-3, atol=1e-5, err_msg=column)


@pytest.mark.parametrize("augment", ["crop_flip", "none"])
def test_batches_are_made_where_the_images_are(augment, digits, monkeypatch):
    recipe = PAPER.with_overrides(Recipe(batch_size=64, augment=augment))
    with elsewhere(monkeypatch) as device:
        found = [(x.inner, y.inner) for x, y in Batches(digits.train, recipe, 0, device).of_epoch(1, 0)]
    want = list(Batches(digits.train, recipe, 0, CPU).of_epoch(1, 0))
    for (x, y), (a, b) in zip(found, want, strict=True):
        assert torch.equal(x, a)
        assert torch.equal(y, b)


def test_a_mixture_is_noticed(monkeypatch):
    with elsewhere(monkeypatch) as device:
        x = torch.zeros(3, device=device)
        with pytest.raises(AssertionError, match="operands from both devices"):
            x + torch.zeros(3)
        with pytest.raises(AssertionError, match="CPU generator"):
            torch.rand(3, device=device, generator=torch.Generator())
        with pytest.raises(TypeError, match=r"Call \.cpu\(\) first"):
            x.numpy()
        assert (x + torch.tensor(2.0)).cpu().tolist() == [2.0, 2.0, 2.0]
