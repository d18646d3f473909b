"""What every registered evaluation must do: document its columns, leave the model alone, not care about the batch."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from bench.core import registry
from bench.core.recipe import PAPER, Recipe
from bench.data.catalog import load
from bench.training.loop import TrainJob, train
from tests.contracts.tables import table

# `autoattack` has several searches in it; its own tests hold these laws with small settings.
# `boundary` takes points in the plane; what has needs reads other cells. Their own tests hold these laws.
NAMES = [e.name for e in registry.evaluations if "autoattack" not in e.name and e.name != "boundary" and not e.needs]


@pytest.fixture(scope="module")
def digits():
    return load("digits", train_limit=200, limit=6)


@pytest.fixture(scope="module")
def model(digits):
    entry = registry.defenses.get("lcnn")
    recipe = PAPER.with_overrides(Recipe(epochs=3, batch_size=50, schedule="onecycle", augment="none"), entry.recipe)
    job = TrainJob(entry, dict(entry.hyperparameters), recipe, "convnet", 10, digits.shape, 0, digits.train)
    return train(job, torch.device("cpu"))


def pattern(text):
    return re.compile(re.sub(r"\\\{\w+\\\}", r"[-+.e0-9]+", re.escape(text)))


@pytest.mark.parametrize("name", NAMES)
def test_it_documents_every_column_that_it_returns(name, model, digits):
    entry = registry.evaluations.get(name)
    known = [pattern(p) for p in entry.columns]
    columns = [c for c in table(name, model, digits.test).columns if c not in ("index", "label")]
    assert columns
    assert [c for c in columns if not any(p.fullmatch(c) for p in known)] == []
    assert all(c.description for c in entry.columns.values())


@pytest.mark.parametrize("name", NAMES)
def test_results_belong_to_the_image_not_to_its_batch(name, model, digits):
    whole, single = table(name, model, digits.test), table(name, model, digits.test, batch_size=1)
    for column in whole:
        if pd.api.types.is_float_dtype(whole[column]):
            np.testing.assert_allclose(single[column], whole[column], rtol=2e-2, atol=1e-4, err_msg=column)
        else:
            assert list(single[column]) == list(whole[column]), column


@pytest.mark.parametrize("name", NAMES)
def test_twice_the_same_and_the_model_as_found(name, model, digits):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    rng = torch.get_rng_state()
    first = table(name, model, digits.test)
    torch.rand(7)
    pd.testing.assert_frame_equal(first, table(name, model, digits.test))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not torch.equal(torch.get_rng_state(), rng)  # ours moved; an evaluation did not put it back
