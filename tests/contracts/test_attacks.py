"""What every registered attack must do; the costly ones keep these laws in tests/attacks with small settings."""

import pytest

from bench.contracts.attack import AttackContract
from bench.core import registry

PROMISES = AttackContract(registry.attacks.get("fgsm")).promises


@pytest.fixture(scope="module")
def contracts():
    return {name: AttackContract(registry.attacks.get(name)) for name in ("fgsm", "noise")}


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("name", ["fgsm", "noise"])
def test_it_keeps_its_contract(name, promise, contracts):
    contracts[name].promises[promise]()
