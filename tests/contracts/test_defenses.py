"""What every registered defense must do, whoever wrote it."""

import numpy as np
import pytest
import torch

from bench.core import registry
from bench.core.recipe import PAPER, Recipe
from bench.models.layers import layer_statistics
from bench.training.loop import TrainJob, train
from bench.training.optimization import parameter_groups

NAMES = [d.name for d in registry.defenses]


def job(name, data, epochs=1):
    entry = registry.defenses.get(name)
    recipe = PAPER.with_overrides(
        Recipe(epochs=epochs, batch_size=32, schedule="onecycle", augment="none"), entry.recipe
    )
    return TrainJob(entry, dict(entry.hyperparameters), recipe, "convnet", 10, data.shape, 0, data.train)


@pytest.fixture(scope="module")
def digits():
    from bench.data import catalog

    return catalog.load("digits", train_limit=97, limit=300)  # the last batch would have one image


@pytest.fixture(scope="module")
def trained(digits):
    return {name: train(job(name, digits), torch.device("cpu")) for name in NAMES}


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
def test_training_moves_it_and_leaves_it_in_eval_mode(name, trained, digits):
    model = trained[name]
    assert not model.training
    start = job(name, digits).build().state_dict()
    moved = [k for k, v in model.named_parameters() if not torch.equal(v, start[k])]
    assert len(moved) == len(list(model.parameters()))


@pytest.mark.parametrize("name", NAMES)
def test_training_is_deterministic(name, trained, digits):
    again = train(job(name, digits), torch.device("cpu")).state_dict()
    assert all(torch.equal(v, again[k]) for k, v in trained[name].state_dict().items())


@pytest.mark.parametrize("name", NAMES)
def test_its_answer_does_not_depend_on_the_batch(name, trained, digits):
    x = torch.tensor(digits.test.images[:256])
    with torch.no_grad():
        whole = trained[name](x)
        single = torch.cat([trained[name](x[i : i + 1]) for i in range(256)])
        order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
        permuted = trained[name](x[order])
    torch.testing.assert_close(single, whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(permuted, whole[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_it_gives_the_same_bits(name, trained, digits, tmp_path):
    from safetensors.torch import load_file, save_file

    save_file({k: v.contiguous() for k, v in trained[name].state_dict().items()}, tmp_path / "w.safetensors")
    other = job(name, digits).build()
    other.load_state_dict(load_file(tmp_path / "w.safetensors"))
    x = torch.tensor(digits.test.images)
    with torch.no_grad():
        assert torch.equal(other.eval()(x), trained[name](x))


@pytest.mark.parametrize("name", NAMES)
def test_weight_decay_spares_what_its_layers_exempt(name, trained):
    groups = parameter_groups(trained[name], 5e-4)
    spared = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    names = {k for k, p in trained[name].named_parameters() if id(p) in spared}
    assert names == {k for k, _ in trained[name].named_parameters() if k.endswith(("log_beta", "log_gamma"))}


@pytest.mark.parametrize("name", NAMES)
def test_what_its_layers_report_is_finite(name, trained):
    assert all(np.isfinite(v) for v in layer_statistics(trained[name]).values())
