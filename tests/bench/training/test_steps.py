"""The ways to carry out a training step: all of them are the plain eager step, and say so when they cannot be had."""

from __future__ import annotations

import contextlib
import copy
import importlib
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.core import registry
from bench.core.errors import UsageError
from bench.core.seeding import seed_everything
from bench.models.layers import CenteredSoftplus, Softplus, double_backward_conv
from bench.training.compiled import CompiledGradients
from bench.training.cuda_graph import CAPTURE_WARMUP_STEPS, CudaGraphStep
from bench.training.execution import ExecutionConfig
from bench.training.gradients import EagerGradients
from bench.training.hooks import set_epoch
from bench.training.losses import bound_loss
from bench.training.make_step import make_step
from bench.training.optimization import parameter_groups
from bench.training.precision import autocast, memory_format, resolve_precision, torch_settings
from bench.training.step import EagerStep, Step
from benchmarks import published

CPU = torch.device("cpu")
NAMES = [
    "adversarial_training", "cure", "gradreg", "lcnn", "lcnn_gradreg", "softplus_wd", "standard", "vanilla",
]  # fmt: skip
SIZE = 16


def parts(name: str, backbone: str = "resnet18-w4"):
    """Return a fresh network of a defense, its loss, and an optimiser."""
    entry = registry.defenses.get(name)
    seed_everything(0)
    model = entry.function(10, (3, SIZE, SIZE), backbone).train()
    optimizer = torch.optim.SGD(parameter_groups(model, 5e-4), lr=0.1, momentum=0.9)
    return model, bound_loss(entry.recipe.loss, dict(entry.hyperparameters)), optimizer


def batches(n: int = 5, sizes: tuple[int, ...] = (8,)) -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(3)
    return [
        (torch.rand(b, 3, SIZE, SIZE, generator=draw), torch.randint(0, 10, (b,), generator=draw))
        for i in range(n)
        for b in [sizes[i % len(sizes)]]
    ]


def plain() -> torch.autocast:
    return autocast("fp32", CPU)


def inner(step: Step) -> EagerStep:
    """Return the eager step that a step is or repeats."""
    found = step.inner if isinstance(step, CudaGraphStep) else step
    assert isinstance(found, EagerStep)
    return found


def run(step: Step, data: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Take a step per batch and return weights, buffers and the epoch's sums."""
    seed_everything(7)
    for i, (x, y) in enumerate(data):
        step(x, y, 0.1 / (i + 1))
    return {**inner(step).model.state_dict(), **inner(step).sums}


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def eager(name: str, backbone: str = "resnet18-w4") -> EagerStep:
    return eager_step(*parts(name, backbone))


def eager_step(model: nn.Module, loss, optimizer: torch.optim.Optimizer) -> EagerStep:
    return EagerStep(model, optimizer, EagerGradients(model, loss, plain), {})


def gradients_of(model: nn.Module, loss, x: Tensor, y: Tensor) -> tuple[dict[str, float], dict[str, Tensor]]:
    seed_everything(1)
    terms, _ = EagerGradients(model, loss, plain)(x, y)
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    return {k: float(v) for k, v in terms.items()}, {n: g.double() for n, g in found.items()}


def agree(got: dict[str, Tensor], want: dict[str, Tensor], relative: float) -> None:
    """Check every parameter's gradient relative to its own norm, with a floor of 1e-3 of the whole gradient's."""
    floor = 1e-3 * torch.stack([g.norm() for g in want.values()]).norm()
    for name, gradient in want.items():
        error = (got[name] - gradient).norm() / gradient.norm().clamp_min(floor)
        assert error < relative, f"{name}: {error:.1e}"


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels_last"])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_that_of_plain_float64_layers(name, layout, monkeypatch):
    """In float64 to rounding. In float32 to 1e-4, with β = 10 where a kink 1/1000 wide would amplify rounding."""
    monkeypatch.setattr(double_backward_conv, "MIN_INPUT_NUMEL", 0)
    model, loss, _ = parts(name, "resnet18-w8")  # at 4 channels torch 2.15 crashes without AVX-512
    for module in model.modules():
        if isinstance(module, Softplus):
            module.fixed_beta = 10.0
    ((x, y),) = batches(1, (16,))
    reference = published.reference(model)

    def with_penalty(net, x, y):
        return {**loss(net, x, y), "penalty": published.curvature_penalty(net)}

    terms, want = gradients_of(reference, with_penalty, x.double(), y)
    model = model.to(memory_format=layout)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        twin = copy.deepcopy(model).to(dtype)
        mine, got = gradients_of(twin, loss, x.to(dtype).contiguous(memory_format=layout), y)
        assert sum(mine.values()) == pytest.approx(sum(terms.values()), rel=tolerance)
        for term in set(mine) & set(terms):
            assert mine[term] == pytest.approx(terms[term], rel=tolerance), term
        agree(dict(zip(want, got.values(), strict=True)), want, tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_stays_on_its_device_and_never_waits_for_it(name):
    """At full size on the device that holds no numbers: to mix it with another or to ask for a number is an error."""
    entry = registry.defenses.get(name)
    model = entry.function(10, (3, 32, 32), "resnet18").train().to("meta", memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(parameter_groups(model, 5e-4), lr=0.1, momentum=0.9)
    loss = bound_loss(entry.recipe.loss, dict(entry.hyperparameters))
    step = EagerStep(model, optimizer, EagerGradients(model, loss, contextlib.nullcontext), {})
    x, y = torch.empty(128, 3, 32, 32, device="meta"), torch.empty(128, dtype=torch.long, device="meta")
    step(x.contiguous(memory_format=torch.channels_last), y, 0.1)
    assert {total.device.type for total in step.sums.values()} == {"meta"}
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in model.parameters())


class StandIn:
    """Stands in for a GPU's stage: a recording runs the same Python again."""

    def __init__(self, waits: str = "", problem: str = "") -> None:
        self.waits, self.problem = waits, problem
        self.warmed = self.recorded = self.forgotten = 0

    def warm_up(self, body, *, report_waits):
        self.warmed += 1
        body()
        return self.waits if report_waits else ""

    def record(self, body):
        if self.problem:
            raise RuntimeError(self.problem)
        self.recorded += 1
        return body

    def forget(self):
        self.forgotten += 1


@pytest.mark.parametrize("name", ["adversarial_training", "lcnn_gradreg", "vanilla"])
def test_a_replayed_step_gives_the_bits_of_the_eager_one(name):
    """Every size of a batch has its own recording, an epoch's last short one as well."""
    data = batches(14, (8, 8, 5))
    model, loss, optimizer = parts(name)
    stage = StandIn()
    step = CudaGraphStep(eager_step(model, loss, optimizer), log=pytest.fail, stage=stage)
    assert same_bits(run(step, data), run(eager(name), data))
    assert stage.recorded == 2
    assert stage.warmed == 2 * CAPTURE_WARMUP_STEPS
    assert set(step.recordings) == {8, 5}
    step.invalidate()
    assert stage.forgotten == 1
    run(step, batches(4))
    assert stage.recorded == 3, "recorded anew after its warm-up"


def test_a_new_epoch_zeroes_the_sums_where_the_recording_adds_to_them():
    model, loss, optimizer = parts("standard", "convnet-w4")
    step = CudaGraphStep(eager_step(model, loss, optimizer), log=pytest.fail, stage=StandIn())
    run(step, batches())
    places = {k: v.data_ptr() for k, v in inner(step).sums.items()}
    step.reset()
    assert all(float(v) == 0 for v in inner(step).sums.values())
    x, y = batches(1)[0]
    step(x, y, 0.0)
    assert {k: v.data_ptr() for k, v in inner(step).sums.items()} == places
    assert float(inner(step).sums["term:cross_entropy"]) > 0


def test_a_recording_that_fails_is_said_once_and_the_step_goes_on():
    model, loss, optimizer = parts("gradreg")
    said: list[str] = []
    stage = StandIn(problem="operation not permitted\nwhen stream is capturing")
    step = CudaGraphStep(eager_step(model, loss, optimizer), log=said.append, stage=stage)
    data = batches(12, (8, 5))
    assert same_bits(run(step, data), run(eager("gradreg"), data))
    assert len(said) == 1
    assert "RuntimeError: operation not permitted when stream is capturing. Going on operation by" in said[0]


def test_a_step_that_waits_for_the_device_is_said_and_never_recorded():
    model, loss, optimizer = parts("standard", "convnet-w4")
    said: list[str] = []
    stage = StandIn(waits="called a synchronizing CUDA operation")
    step = CudaGraphStep(eager_step(model, loss, optimizer), log=said.append, stage=stage)
    run(step, batches(6))
    assert (stage.warmed, stage.recorded) == (CAPTURE_WARMUP_STEPS, 0)
    assert said == [
        "training step: expected a step that never waits for the device, got one that does (called a synchronizing "
        "CUDA operation). Going on operation by operation, which is slower."
    ]


@pytest.mark.parametrize("name", NAMES)
def test_a_traced_step_gives_the_bits_of_the_eager_one(name, monkeypatch):
    """The whole step with its double backward as one graph of plain operations, before any code is generated."""
    monkeypatch.setattr(double_backward_conv, "MIN_INPUT_NUMEL", 0)
    activation = importlib.import_module(CenteredSoftplus.__module__)
    monkeypatch.setattr(activation, "KERNEL_FROM", math.inf)  # tracing cannot choose by the value of β
    data = batches(3, (8, 8, 5))
    model, loss, optimizer = parts(name, "convnet-w4")
    gradients = CompiledGradients(model, loss, plain, size=8, log=pytest.fail, backend=None)
    step = EagerStep(model, optimizer, gradients, {})
    assert same_bits(run(step, data), run(eager(name, "convnet-w4"), data))
    assert gradients.compiled is not None
    step.invalidate()
    assert gradients.compiled is None


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile warns about itself
@pytest.mark.parametrize("name", ["standard", "lcnn", "lcnn_gradreg", "cure"])
def test_a_compiled_step_agrees_with_the_eager_one(name):
    ((x, y),) = batches(1)
    found = []
    for compiled in (True, False):
        model, loss, _ = parts(name, "convnet-w4")
        for module in model.modules():
            if isinstance(module, Softplus):
                module.fixed_beta = 10.0
        calls = (
            CompiledGradients(model, loss, plain, size=8, log=pytest.fail)
            if compiled
            else EagerGradients(model, loss, plain)
        )
        terms, _ = calls(x, y)
        found.append((terms, {n: p.grad.double() for n, p in model.named_parameters()}))
    (mine, got), (terms, want) = found
    torch.testing.assert_close(mine, terms, rtol=1e-5, atol=1e-7)
    agree(got, want, 1e-4)


def test_a_step_that_cannot_be_traced_is_said_once_and_runs_eagerly():
    model, _, optimizer = parts("standard", "convnet-w4")

    def loss(model, x, y):
        value = F.cross_entropy(model(x), y)
        return {"a": value if value.item() > 0 else -value}

    said: list[str] = []
    step = make_step("compile", model, optimizer, loss, {}, autocast=plain, size=8, log=said.append)
    before = copy.deepcopy(model.state_dict())
    run(step, batches(2))
    assert len(said) == 1
    assert "expected one that compiles" in said[0]
    assert not torch.equal(before["fc.bias"], model.state_dict()["fc.bias"])


def test_a_graph_without_a_gpu_is_said_and_runs_eagerly():
    model, loss, optimizer = parts("standard", "convnet-w4")
    said: list[str] = []
    step = make_step("graph", model, optimizer, loss, {}, autocast=plain, size=8, log=said.append)
    assert type(step) is EagerStep
    assert said == ["training step: expected a GPU to record it on, got cpu. Going on operation by operation."]


def test_every_step_under_autocast_sees_the_weights_of_the_step_before():
    """Torch keeps cast weights until the outermost region ends: one around the whole training would go on with them."""
    model, loss, optimizer = parts("standard", "convnet-w4")

    def half() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16)

    step = EagerStep(model, optimizer, EagerGradients(model, loss, half), {})
    x, y = batches(1)[0]
    for _ in range(3):
        with half():
            expected = loss(copy.deepcopy(model), x, y)["cross_entropy"].detach()
        step.reset()
        step(x, y, 0.5)
        assert float(step.sums["term:cross_entropy"]) == float(expected * len(y))


def test_epochs_that_change_a_number_are_told_apart():
    model, *_ = parts("cure", "convnet-w4")
    assert not set_epoch(model, 0)
    assert not set_epoch(model, 1), "one length for all epochs"
    entry = registry.defenses.get("cure")
    changing = entry.function(10, (3, SIZE, SIZE), "convnet-w4", variant="reference")
    assert [set_epoch(changing, epoch) for epoch in range(6)] == [True, True, True, True, True, False]
    changing.set_epoch = lambda epoch: None
    with pytest.raises(UsageError, match="set_epoch: expected True or False, got None"):
        set_epoch(changing, 6)


def test_execution_enters_the_key_only_where_it_changes_rounding():
    gpu = torch.device("cuda", 0)
    assert ExecutionConfig().key(gpu) == ExecutionConfig("graph").key(gpu) == ExecutionConfig("eager").key(CPU) == {}
    assert ExecutionConfig("compile").key(CPU) == {"step": "compile"}
    assert ExecutionConfig(deterministic=True).key(CPU) == {}
    assert ExecutionConfig(deterministic=True).key(gpu) == {"deterministic": True}
    assert (ExecutionConfig().step_mode(gpu), ExecutionConfig().step_mode(CPU)) == ("graph", "eager")
    with pytest.raises(UsageError, match=r"--step: expected auto, eager, graph, compile, got 'grph'.*'graph'"):
        ExecutionConfig("grph")


def test_a_precision_is_what_the_device_has(monkeypatch):
    gpu = torch.device("cuda")
    assert [resolve_precision(p, CPU) for p in ("auto", "fp32", "tf32", "bf16")] == ["fp32"] * 4
    assert [resolve_precision(p, gpu) for p in ("fp32", "tf32", "bf16")] == ["fp32", "tf32", "bf16"]
    for capability, precision in (((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp32")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert resolve_precision("auto", gpu) == precision


def test_layouts_and_switches():
    gpu = torch.device("cuda")
    assert memory_format((32, 32), "bf16", gpu) == memory_format((32, 32), "fp32", CPU) == torch.channels_last
    assert memory_format((32, 32), "fp32", gpu) == memory_format((8, 8), "fp32", CPU) == torch.contiguous_format
    before = torch.are_deterministic_algorithms_enabled()
    with torch_settings(ExecutionConfig(deterministic=True), "tf32", gpu):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cudnn.deterministic
        assert torch.backends.cudnn.allow_tf32
    assert torch.are_deterministic_algorithms_enabled() == before
    assert not torch.backends.cudnn.deterministic


@pytest.mark.slow
@pytest.mark.parametrize("name", ["standard", "lcnn_gradreg"])
def test_bfloat16_training_is_as_accurate_within_noise(name):
    """Three seeds of a small problem: five blurred patterns to tell apart, 256 images, 60 steps."""
    differences = []
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        patterns = torch.rand(5, 3, 8, 8, generator=draw)
        y = torch.randint(0, 5, (512,), generator=draw)
        x = (patterns[y] + 0.6 * torch.randn(512, 3, 8, 8, generator=draw)).clamp(0, 1)
        accuracy = []
        for enabled in (False, True):
            entry = registry.defenses.get(name)
            seed_everything(seed)
            model = entry.function(5, (3, 8, 8), "convnet-w8").train()
            optimizer = torch.optim.SGD(parameter_groups(model, 5e-4), lr=0.05, momentum=0.9)
            loss = bound_loss(entry.recipe.loss, dict(entry.hyperparameters))
            half = lambda enabled=enabled: torch.autocast("cpu", torch.bfloat16, enabled=enabled)  # noqa: E731
            step = EagerStep(model, optimizer, EagerGradients(model, loss, half), {})
            for i in range(60):
                part = slice(64 * (i % 4), 64 * (i % 4) + 64)
                step(x[part], y[part], 0.05)
            model.eval()
            with torch.no_grad():
                accuracy.append(float((model(x[256:]).argmax(1) == y[256:]).float().mean()))
        assert accuracy[0] > 0.5, "something was learnt"
        differences.append(accuracy[1] - accuracy[0])
    assert abs(sum(differences) / 3) < 0.04, differences  # the deviation of 256 judgements is 0.03


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", [*NAMES, "lcnn_adversarial"])
def test_a_cuda_graph_gives_the_numbers_of_the_eager_step(name, precision):
    gpu, found = torch.device("cuda"), []
    data = [(x.to(gpu), y.to(gpu)) for x, y in batches(12, (8, 8, 5))]
    for mode in ("graph", "eager"):
        model, loss, _ = parts(name)
        model = model.to(gpu)
        optimizer = torch.optim.SGD(parameter_groups(model, 5e-4), lr=0.1, momentum=0.9, fused=True)
        with torch_settings(ExecutionConfig(deterministic=True), precision, gpu):
            step = make_step(mode, model, optimizer, loss, {}, autocast=lambda: autocast(precision, gpu), size=8,
                             log=pytest.fail)  # fmt: skip
            found.append(run(step, data))
        assert mode == "eager" or all(step.recordings.values())
    for key, want in found[1].items():
        torch.testing.assert_close(found[0][key], want, rtol=1e-3, atol=1e-4, msg=key)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@pytest.mark.parametrize("name", ["cure", "lcnn_gradreg"])
def test_recordings_hold_the_memory_of_one_step(name):
    """One side stream and one pool: the recording of a short batch adds little, alone it would add 60 %."""
    gpu, reserved = torch.device("cuda"), []
    for sizes in ((128,), (128, 128, 80)):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(gpu)
        model, loss, _ = parts(name, "resnet18-w16")
        model = model.to(gpu)
        optimizer = torch.optim.SGD(parameter_groups(model, 5e-4), lr=0.1, momentum=0.9, fused=True)
        step = make_step("graph", model, optimizer, loss, {}, autocast=plain, size=128, log=pytest.fail)
        run(step, [(x.to(gpu), y.to(gpu)) for x, y in batches(12, sizes)])
        torch.cuda.synchronize(gpu)
        torch.cuda.empty_cache()
        reserved.append(torch.cuda.memory_reserved(gpu) - before)
        del model, optimizer, step
    assert reserved[1] < 1.4 * reserved[0], reserved
