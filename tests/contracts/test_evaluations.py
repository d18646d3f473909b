"""What every registered evaluation must do: document its columns, leave the model alone, not care about the batch."""

import pytest

from bench.contracts.evaluation import EvaluationContract
from bench.core import registry

# `autoattack` has several searches in it; its own tests hold these laws with small settings.
# `boundary` takes points in the plane; what has needs reads other cells. Their own tests hold these laws.
NAMES = [e.name for e in registry.evaluations if "autoattack" not in e.name and e.name != "boundary" and not e.needs]


@pytest.fixture(scope="module")
def model():
    return EvaluationContract(registry.evaluations.get("accuracy")).model


@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_its_contract(name, model):
    for words, promise in EvaluationContract(registry.evaluations.get(name), model=model).promises.items():
        try:
            promise()
        except Exception as error:
            pytest.fail(f"{words}: {error}")
