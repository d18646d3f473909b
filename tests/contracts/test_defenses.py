"""What every registered defense must do, whoever wrote it."""

from importlib.util import find_spec

import pytest

from bench.contracts.contract import digits
from bench.contracts.defense import DefenseContract
from bench.core import registry
from bench.training.optimization import parameter_groups

OPTIONAL = {"torchlip": "deel"}  # defense → the library that it needs
NAMES = [d.name for d in registry.defenses if find_spec(OPTIONAL.get(d.name, "torch")) is not None]
PROMISES = DefenseContract(registry.defenses.get("standard")).promises


@pytest.fixture(scope="module")
def contracts():
    data = digits()
    return {name: DefenseContract(registry.defenses.get(name), data) for name in NAMES}


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("name", NAMES)
def test_it_keeps_its_contract(name, promise, contracts):
    contracts[name].promises[promise]()


@pytest.mark.parametrize("name", NAMES)
def test_it_says_where_it_comes_from(name):
    entry = registry.defenses.get(name)
    assert entry.source
    assert len(entry.description.splitlines()) > 3
    assert all(v is not ... for v in entry.hyperparameters.values()), "every hyper-parameter has a default"
    assert entry.title
    assert entry.title != name
    assert entry.link.startswith("https://")
    assert entry.venue
    assert str(entry.year) in entry.source
    assert str(entry.year) in entry.bibtex


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_spares_what_its_layers_exempt(name, contracts):
    groups = parameter_groups(contracts[name].trained, 5e-4)
    spared = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    names = {k for k, p in contracts[name].trained.named_parameters() if id(p) in spared}
    assert names == {k for k, _ in contracts[name].trained.named_parameters() if k.endswith(("log_beta", "log_gamma"))}
