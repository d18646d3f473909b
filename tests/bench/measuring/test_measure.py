"""Chunks, batches, counts, and leaving models as they were found."""

import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bench.core import registry
from bench.core.errors import BenchError, OutOfMemoryError
from bench.core.records import Evaluation
from bench.data.split import Split
from bench.measuring.adversarial_images import predictions
from bench.measuring.inputs import CellInputs
from bench.measuring.model_contract import BadModel, check_model, checked_eval
from bench.measuring.passes import counted
from bench.measuring.runner import evaluate_chunks


def split(n=10):
    rng = np.random.default_rng(0)
    return Split.of(rng.random((n, 1, 4, 4), dtype=np.float32), rng.integers(0, 3, n))


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Softplus(), nn.Flatten(), nn.Linear(16, 3))


def spread(model, x, y, *, seed=0):
    """Return one value per image, and what batch it came in."""
    return {"sum": x.sum((1, 2, 3)), "batch": torch.full((len(x),), len(x)), "picture": x + 1}


def run(function, chunk=4, **options):
    entry = Evaluation(function.__name__, function, "test", 1, {}, chunk)
    defaults = {"arguments": {}, "seed": 0}
    return list(evaluate_chunks(entry, model().eval(), split(), torch.device("cpu"), **defaults | options))


def test_chunks_have_a_fixed_size_and_batches_do_not_matter():
    one, two = run(spread), run(spread, batch_size=3)
    assert [len(c.table) for c in one] == [4, 4, 2]
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.table["sum"], b.table["sum"])
    assert list(two[0].table["batch"]) == [3, 3, 3, 1]
    assert list(one[1].table["index"]) == [4, 5, 6, 7]


def test_stored_chunks_are_not_computed_again():
    assert [c.number for c in run(spread, done=(0, 2))] == [1]


def test_pictures_are_kept_when_asked_for_and_only_where_something_changed():
    assert run(spread)[0].images is None
    kept = run(spread, keep_images=lambda name: name == "picture")[1].images
    np.testing.assert_array_equal(kept["index"], [4, 5, 6, 7])
    np.testing.assert_allclose(kept["adversarial"] - kept["clean"], 1, atol=1e-6)


def test_out_of_memory_halves_the_batch_and_changes_nothing():
    def hungry(model, x, y, *, seed=0):
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"sum": x.sum((1, 2, 3))}

    table = run(hungry, chunk=10)[0].table
    np.testing.assert_array_equal(table["sum"], run(spread, chunk=10)[0].table["sum"])


def test_out_of_memory_at_one_image_is_an_error():
    def starving(model, x, y, *, seed=0):
        raise MemoryError

    with pytest.raises(OutOfMemoryError, match="expected one image to fit"):
        run(starving)


def test_a_column_of_the_wrong_length_is_named():
    def short(model, x, y, *, seed=0):
        return {"half": x.sum((1, 2, 3))[::2]}

    with pytest.raises(BenchError, match="expected 4 values in column 'half', got 2"):
        run(short)


def test_passes_are_counted_per_image():
    net = model().eval()
    with counted(net) as passes:
        x = torch.rand(5, 1, 4, 4, requires_grad=True)
        torch.autograd.grad(net(x).sum(), x)
        with torch.no_grad():
            net(x)
    assert (passes.forwards, passes.backwards) == (10, 5)
    net(x)
    assert passes.forwards == 10


def test_a_model_and_the_generators_are_left_as_found():
    net = model()
    net[0].eval()
    net[4].bias.requires_grad_(False)
    modes = [m.training for m in net.modules()]
    rng = torch.get_rng_state()
    with checked_eval(net):
        assert not any(m.training for m in net.modules())
        assert not any(p.requires_grad for p in net.parameters())
        torch.rand(3)
    assert [m.training for m in net.modules()] == modes
    assert [p.requires_grad for p in net.parameters()] == [True, True, True, True, True, False]
    assert torch.equal(torch.get_rng_state(), rng)


def test_a_model_that_changes_its_state_is_named():
    net = model()

    def evil(m, x, y, *, seed=0):
        m.train()
        m(x)
        return {"a": x.sum((1, 2, 3))}

    entry = Evaluation("evil", evil, "test", 1, {}, 4)
    with pytest.raises(BadModel, match="expected its state untouched"):
        list(evaluate_chunks(entry, net, split(), torch.device("cpu"), arguments={}, seed=0))


def test_a_nan_weight_is_reported_as_what_it_is():
    net = model()
    net[1].weight.data[0] = torch.nan
    with pytest.raises(BadModel, match=r"expected finite weights, got NaN in 1\.weight"):
        check_model(net, torch.rand(2, 1, 4, 4))


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.complex64])
def test_an_unused_nan_buffer_is_no_side_effect(kind):
    net = model()
    net.register_buffer("unused", torch.full((2,), torch.nan, dtype=kind))
    net.register_buffer("scalar", torch.tensor(torch.nan, dtype=kind))
    assert check_model(net, torch.rand(2, 1, 4, 4)) == 3


@pytest.mark.parametrize(
    ("before", "after"), [(1.0, torch.nan), (torch.nan, 1.0), (0.0, -0.0), (1.0, 1.0000001), (True, False), (3, 4)]
)
def test_a_buffer_that_changes_is_named(before, after):
    class Changes(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = model()
            self.register_buffer("place", torch.tensor([before]))

        def forward(self, x):
            self.place.fill_(after)
            return self.net(x)

    with pytest.raises(BadModel, match="got changes in place"):
        check_model(Changes(), torch.rand(2, 1, 4, 4))


class Starved(nn.Module):
    """A model that finds memory for at most `fits` images, and reports it in a chosen way."""

    def __init__(self, error, fits=2):
        super().__init__()
        self.error, self.fits, self.sizes = error, fits, []

    def forward(self, x):
        self.sizes.append(len(x))
        if len(x) > self.fits:
            raise self.error
        return torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1)], 1)


REPORTS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("std::bad_alloc"),
]


@pytest.mark.parametrize("error", REPORTS, ids=lambda e: str(e)[:30] or type(e).__name__)
def test_predictions_halve_their_batch_whatever_reports_that_memory_ran_out(error):
    net, images = Starved(error, fits=30), split(130).images
    found = predictions(net, images, torch.device("cpu"))
    np.testing.assert_array_equal(found, np.zeros(130))
    assert net.sizes == [100, 50, *[25] * 5, 5]


@pytest.mark.parametrize("error", REPORTS, ids=lambda e: str(e)[:30] or type(e).__name__)
def test_the_door_says_that_memory_ran_out(error):
    with pytest.raises(OutOfMemoryError, match="model Starved: expected the batch to fit into memory"):
        check_model(Starved(error, fits=0), torch.rand(2, 1, 4, 4))


@pytest.mark.parametrize("error", REPORTS, ids=lambda e: str(e)[:30] or type(e).__name__)
def test_the_door_asks_fewer_images_where_memory_runs_out(error):
    net = Starved(error, fits=1)
    assert check_model(net, torch.rand(4, 1, 4, 4)) == 2
    assert max(net.sizes[2:]) == 1


@pytest.mark.parametrize("name", ["accuracy", "pgd_l2", "curvature", "stability"])
@pytest.mark.parametrize("fits", [1, 3])
@pytest.mark.parametrize("error", [REPORTS[0], REPORTS[1], REPORTS[3]], ids=["torch", "python", "cuda"])
def test_an_evaluation_fits_into_memory_whatever_reports_that_it_ran_out_and_changes_nothing(name, fits, error):
    """Check of gradients, of the engine of second derivatives, attack: at several images and at one."""
    entry = registry.evaluations.get(name)
    changed = {"pgd_l2": {"eps": [0.5], "steps": 2}, "stability": {"radius": [0.1]}}.get(name, {})
    arguments = {**entry.hyperparameters, **changed}
    found, data = [], Split.of(split().images, split().labels % 2)
    for net in (Starved(error, fits=fits), Starved(error, fits=1000)):
        found += evaluate_chunks(
            entry, net.eval(), data, torch.device("cpu"), arguments=arguments, seed=0, batch_size=10
        )
    assert found[0].info["batch_size_fitted"] <= fits
    assert "batch_size_fitted" not in found[1].info
    pd.testing.assert_frame_equal(found[0].table, found[1].table, rtol=1e-4, atol=1e-6)


def test_transfer_fits_into_memory_and_asks_no_more_images_at_once_than_it_was_told():
    entry, data = registry.evaluations.get("transfer_l2"), Split.of(split(40).images, np.arange(40) % 2)
    others = {place: image + np.float32(0.01) for place, image in enumerate(data.images)}
    inputs = CellInputs({"robust": dict.fromkeys(range(40), True)}, {"adversarial": {"another row": others}})
    arguments, found = {**entry.hyperparameters, "eps": [0.5]}, []
    for fits, batch in ((3, 40), (1000, 7), (1000, 40)):
        net = Starved(MemoryError(), fits=fits).eval()
        found += evaluate_chunks(
            entry, net, data, torch.device("cpu"), arguments=arguments, seed=0, inputs=inputs, batch_size=batch
        )
        assert max(net.sizes) == batch
    assert [chunk.info.get("batch_size_fitted") for chunk in found] == [2, None, None]
    pd.testing.assert_frame_equal(found[0].table, found[2].table)
    pd.testing.assert_frame_equal(found[1].table, found[2].table)


def test_bench_evaluate_says_at_which_batch_memory_was_enough():
    import bench

    data = split()
    table = bench.evaluate(Starved(MemoryError(), fits=3), data=(data.images, data.labels % 2), evaluations="accuracy")
    assert table.attrs["cost"]["accuracy"]["batch_size_fitted"] == 2


def test_another_runtime_error_is_passed_on():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        predictions(Starved(RuntimeError("shapes cannot be multiplied")), split(5).images, torch.device("cpu"))


class Broken(nn.Module):
    """A model that breaks the contract in a chosen way."""

    def __init__(self, how):
        super().__init__()
        self.how, self.calls = how, 0

    def forward(self, x):
        self.calls += 1
        z = torch.stack([x.flatten(1).sum(1), -x.flatten(1).sum(1), x[:, 0, 0, 0]], 1)
        return {
            "shape": z[:, :, None], "tuple": (z,), "nan": z / 0 * 0, "counter": z + self.calls, "integer": z.long(),
            "crash": None if self.how == "crash" else z,
        }[self.how]  # fmt: skip


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("shape", "expected logits of shape"),
        ("tuple", "got a tuple of 1"),
        ("nan", "expected finite logits"),
        ("counter", "expected the same logits twice"),
        ("integer", "expected logits of shape"),
    ],
)
def test_a_bad_model_is_refused_at_the_door(how, words):
    with pytest.raises(BadModel, match=words):
        check_model(Broken(how), torch.rand(2, 1, 4, 4))


def test_class_count_and_input_shape_are_checked():
    assert check_model(model(), torch.rand(2, 1, 4, 4), 3) == 3
    with pytest.raises(BadModel, match="expected 10 classes, got 3"):
        check_model(model(), torch.rand(2, 1, 4, 4), 10)
    with pytest.raises(BadModel, match="expected logits for images of shape"):
        check_model(model(), torch.rand(2, 3, 4, 4))


def _passes(net, use) -> tuple[int, int]:
    with counted(net) as passes:
        use(net)
    return passes.forwards, passes.backwards


def _gradients(net):
    x = torch.rand(5, 1, 4, 4, requires_grad=True)
    torch.autograd.grad(net(x).sum(), x)


@pytest.mark.parametrize("kind", ["plain", "compiled", "compiled in place", "scripted", "parallel", "copied"])
def test_passes_are_counted_however_the_network_is_wrapped(kind):
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 7)).eval()
    if kind == "compiled in place":
        net.compile(backend="eager")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scripting is deprecated
        wrapped = {
            "compiled": lambda: torch.compile(net, backend="eager"),
            "scripted": lambda: torch.jit.script(net),
            "parallel": lambda: nn.DataParallel(net),
            "copied": lambda: copy.deepcopy(net),
        }.get(kind, lambda: net)()
        assert _passes(wrapped, _gradients) == (5, 5)


def test_passes_of_batched_gradients_and_of_transforms_are_counted_one_by_one():
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 7)).eval(), torch.rand(5, 1, 4, 4)

    def batched(net):
        z = x.clone().requires_grad_()
        torch.autograd.grad(net(z), z, torch.eye(7)[:, None].expand(7, 5, 7), is_grads_batched=True)

    assert _passes(net, batched) == (5, 35)
    assert _passes(net, lambda net: torch.func.grad(lambda z: net(z).sum())(x)) == (5, 5)
    assert _passes(net, lambda net: torch.func.vmap(torch.func.grad(lambda z: net(z[None]).sum()))(x)) == (5, 5)
    assert _passes(net, lambda net: torch.func.jacrev(net)(x)) == (5, 175)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch scripts its own decompositions, and warns that scripting is deprecated
        assert _passes(net, lambda net: torch.func.jvp(net, (x,), (x,))) == (5, 0)
