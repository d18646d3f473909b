"""Models as people have them: the right numbers, or one line that says what to do."""

import copy
import functools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import bench
from bench.core.errors import BenchError, UsageError
from bench.measuring.model_contract import BadModel

NAMES = ["accuracy", "pgd_l2", "curvature"]
EPS = 0.3


def table(model, data, names=NAMES, **options):
    return bench.evaluate(model, data=data, evaluations=names, eps=EPS, **options)


class Around(nn.Module):
    """A module whose forward is a function of the network and the images."""

    def __init__(self, net, function):
        super().__init__()
        self.net, self.function = net, function

    def forward(self, x):
        return self.function(self.net, x)


class Unmovable(Around):
    def to(self, *args, **kwargs):
        raise ValueError(".to is not supported for 8-bit models")


class Methods:
    """An object that is no module, with a method that classifies."""

    def __init__(self, net):
        self.net = net

    def classify(self, x):
        return self.net(x)


@pytest.fixture(autouse=True)
def _quiet():
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`?torch.(jit|ao)", DeprecationWarning)
        warnings.filterwarnings("ignore", ".*torch.jit", FutureWarning)
        warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
        yield


def scripted(net):
    return torch.jit.script(net)


def frozen(net):
    return torch.jit.freeze(torch.jit.script(net.eval()))


def traced(net):
    return torch.jit.trace(net, torch.rand(4, 1, 6, 6), check_trace=False)


def compiled(net):
    return torch.compile(net, backend="eager")


def global_function(x):
    return GLOBAL["net"](x)


GLOBAL: dict[str, nn.Module] = {}

SAME = {
    "train mode": lambda net: net.train(),
    "frozen weights": lambda net: net.requires_grad_(False),
    "traced": traced,
    "compiled": compiled,
    "DataParallel": nn.DataParallel,
    "channels_last": lambda net: net.to(memory_format=torch.channels_last),
    "deep copy": copy.deepcopy,
    "cannot be moved": lambda net: Unmovable(net, lambda n, x: n(x)),
    "wrapped": bench.wrap,
    "wrapped lambda": lambda net: bench.wrap(lambda x: net(x)),
    "wrapped method": lambda net: bench.wrap(Methods(net).classify),
    "wrapped bound forward": lambda net: bench.wrap(net.forward),
    "wrapped partial": lambda net: bench.wrap(functools.partial(lambda n, x: n(x), net)),
    "wrapped functional_call": lambda net: bench.wrap(
        functools.partial(lambda n, x: torch.func.functional_call(n, dict(n.named_parameters()), (x,)), net)
    ),
    "wrapped tuple": lambda net: bench.wrap(Around(net, lambda n, x: (n(x), x)), output=0),
    "wrapped dict": lambda net: bench.wrap(Around(net, lambda n, x: {"out": n(x)}), output="out"),
    "wrapped object": lambda net: bench.wrap(Around(net, lambda n, x: SimpleNamespace(logits=n(x))), output="logits"),
    "wrapped function of the answer": lambda net: bench.wrap(Around(net, lambda n, x: [n(x)]), output=lambda a: a[0]),
    "wrapped float64": lambda net: bench.wrap(net.double()),
    "wrapped that edits its input": lambda net: bench.wrap(Around(net, lambda n, x: n(x.mul_(1.0).add_(0.0)))),
}


@pytest.mark.parametrize("form", SAME)
def test_another_form_of_the_same_network_gives_the_same_table(form, net, data):
    plain, modes = copy.deepcopy(net), [m.training for m in net.modules()]
    model = SAME[form](net)
    place = next(
        (p.device for p in model.parameters()), "cpu"
    )  # DataParallel takes its network to a GPU, if there is one
    expected = table(plain.to(place), data)
    before = [m.training for m in model.modules()]
    found = table(model, data)
    assert [m.training for m in model.modules()] == before
    assert form == "train mode" or [m.training for m in net.modules()] == modes
    pd.testing.assert_frame_equal(found, expected, rtol=2e-3, atol=1e-4)
    for name in ("clean_correct", f"pgd_l2_{EPS}_robust"):
        assert found[name].tolist() == expected[name].tolist()


def test_float64_inside(net, data):
    expected = table(net, data, NAMES[:2])
    inside = Around(net.double(), lambda n, x: n(x.double()))
    found = table(inside, data, NAMES[:2])
    assert found[f"pgd_l2_{EPS}_robust"].tolist() == expected[f"pgd_l2_{EPS}_robust"].tolist()
    with pytest.raises(BenchError, match="cast nothing inside forward"):
        table(inside, data)


@pytest.mark.parametrize("form", [scripted, frozen])
def test_scripted_and_frozen_networks(form, net, data):
    expected = table(net, data, NAMES[:2])
    found = table(form(net), data, NAMES[:2])
    assert found[f"pgd_l2_{EPS}_robust"].tolist() == expected[f"pgd_l2_{EPS}_robust"].tolist()


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused_and_works_wrapped(kind, net, data):
    expected = table(net, data, NAMES[:2])
    half = copy.deepcopy(net).to(kind)
    with pytest.raises(BadModel, match=f"parameters are {str(kind)[6:]}: write bench.wrap"):
        table(half, data)
    with pytest.raises(BadModel, match=rf"expected float32 logits, got {str(kind)[6:]}. Write bench.wrap"):
        table(Around(half, lambda n, x: n(x.to(kind))), data)
    found = table(bench.wrap(half), data, NAMES[:2])
    assert abs(found["margin"] - expected["margin"]).max() < 0.05
    assert found[f"pgd_l2_{EPS}_robust"].mean() < found["clean_correct"].mean()


def test_autocast_inside(net, data):
    def cast(n, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return n(x)

    with pytest.raises(BadModel, match="expected float32 logits, got bfloat16"):
        table(Around(net, cast), data)
    found = table(bench.wrap(Around(net, cast)), data, NAMES[:2])
    assert found[f"pgd_l2_{EPS}_robust"].mean() < found["clean_correct"].mean()


def no_grad(n, x):
    with torch.no_grad():
        return n(x)


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return (x * 255).round() / 255

    @staticmethod
    def backward(ctx, grad):
        return grad


BLIND = {
    "no_grad": no_grad,
    "inference mode": lambda n, x: torch.inference_mode()(n)(x),
    "detached": lambda n, x: n(x.detach()),
    "detached logits": lambda n, x: n(x).detach(),
    "through numpy": lambda n, x: n(torch.from_numpy(x.detach().numpy())),
    "rounded": lambda n, x: n((x * 255).round() / 255),
    "saturated": lambda n, x: (1e4 * n(x)).softmax(1),
    "added constant": lambda n, x: n(x.detach()) + 0 * x.sum(),
}


@pytest.mark.parametrize("how", BLIND)
def test_a_model_without_gradients_gets_no_robust_accuracy(how, net, data):
    model = Around(net, BLIND[how])
    for name in ("pgd_l2", "autoattack_l2", "fgsm_linf", "curvature", "stability"):
        with pytest.raises(
            BadModel, match=f"evaluation {name}: model Around: expected (gradients|a backward)"
        ) as caught:
            table(model, data, [name])
        assert "accuracy, square, noise" in str(caught.value)
    found = table(model, data, ["accuracy", "noise_l2"])
    assert found["clean_correct"].sum() > 0


def test_a_dynamically_quantised_network_is_refused(data):
    """Its activations' scale is that of the whole batch, so that an answer depends on the other images."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    quantised = torch.ao.quantization.quantize_dynamic(net, {nn.Linear})
    with pytest.raises(BadModel, match=r"for an image alone .* dynamic quantisation"):
        table(quantised, data, ["accuracy"])


class Weights8Bit(nn.Module):
    """A linear layer with integer weights, whose forward is differentiable."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("weight", torch.randint(-127, 128, (3, 36), generator=generator, dtype=torch.int8))

    def forward(self, x):
        return F.linear(x.flatten(1), self.weight.float() / 127)


def test_8_bit_weights_alone_are_no_obstacle(data):
    x, _ = data
    model = Weights8Bit()
    found = bench.evaluate(model, data=(x, model(x).argmax(1)), evaluations=NAMES[:2], eps=2)
    assert found["pgd_l2_2_robust"].mean() < found["clean_correct"].mean() == 1


HONEST = {
    "straight-through rounding": lambda n, x: n(StraightThrough.apply(x)),
    "probabilities": lambda n, x: n(x).softmax(1),
    "log-probabilities": lambda n, x: n(x).log_softmax(1),
    "tiny logits": lambda n, x: 1e-20 * n(x),
    "huge logits": lambda n, x: 1e6 * n(x),
}


@pytest.mark.parametrize("how", HONEST)
def test_a_model_with_gradients_is_attacked(how, net, data):
    found = table(Around(net, HONEST[how]), data, NAMES[:2])
    assert found[f"pgd_l2_{EPS}_robust"].mean() < found["clean_correct"].mean()


def test_a_constant_model_is_robust_in_truth(data):
    class Constant(nn.Module):
        def forward(self, x):
            return torch.tensor([1.0, 0.0, 0.0]).expand(len(x), 3) + 0 * x.flatten(1)[:, :1]

    found = table(Constant(), data, NAMES[:2])
    assert (found[f"pgd_l2_{EPS}_robust"] == found["clean_correct"]).all()


def neighbours(n, x):
    return n(x) - n(x).mean(0)


REFUSED = {
    r"got a tuple of 2. Write bench.wrap\(model, output=0\)": lambda n: Around(n, lambda n, x: (n(x), x)),
    r"got a dict with the keys 'out'. Write bench.wrap\(model, output=KEY\)": lambda n: Around(
        n, lambda n, x: {"out": n(x)}
    ),
    r'got SimpleNamespace with .logits. Write bench.wrap\(model, output="logits"\)': lambda n: Around(
        n, lambda n, x: SimpleNamespace(logits=n(x))
    ),
    r"expected at least 2 logits per image, got 1. For one": lambda n: Around(n, lambda n, x: n(x)[:, :1]),
    r"expected initialised weights, got lazy ones in 1.weight": lambda n: nn.Sequential(nn.Flatten(), nn.LazyLinear(3)),
    r"parameters are float64: write bench.wrap": lambda n: n.double(),
    r"expected its input left alone, got it changed by forward": lambda n: Around(n, lambda n, x: n(x.mul_(0.5))),
    r"expected its input left alone.*ReLU\(inplace=True\)": lambda n: nn.Sequential(Shift(), nn.ReLU(inplace=True), n),
    r"expected the same logits for an image alone .* other images": lambda n: Around(n, neighbours),
    r"expected logits for one image alone .* Expected more than 1 value per channel": lambda n: Around(
        nn.Sequential(nn.Flatten(), nn.Linear(36, 3)), lambda n, x: F.batch_norm(n(x), None, None, training=True)
    ),
    r"expected the same logits in another order": lambda n: Around(
        n, lambda n, x: n(x) * torch.arange(1, len(x) + 1).view(-1, 1) if len(x) > 1 else n(x)
    ) and Positions(n),
    r"expected the same logits twice": lambda n: Around(n, lambda n, x: n(x) + torch.rand(len(x), 3)),
    r"expected an nn.Module, got function. Write bench.wrap\(model\)": lambda n: lambda x: n(x),
    r"expected logits for images of shape \(4, 1, 6, 6\)": lambda n: nn.Sequential(nn.Flatten(), nn.Linear(35, 3)),
}  # fmt: skip


class Shift(nn.Module):
    """Give the images themselves on, so that the next layer's in-place work reaches them."""

    def forward(self, x):
        return x.sub_(0.5)


class Positions(nn.Module):
    """Add a little to the logits by the place in a batch of more than one, beyond the first image."""

    def __init__(self, net):
        super().__init__()
        self.net, self.alone = net, {}

    def forward(self, x):
        key = x.flatten(1).sum(1).tolist()
        if len(x) == 1:
            return self.alone[key[0]]
        z = self.net(x)
        if not self.alone:
            self.alone = {k: row[None] for k, row in zip(key, z, strict=True)}
        first = next(iter(self.alone)) == key[0]
        return z if first else z + torch.arange(float(len(x))).view(-1, 1)


@pytest.mark.parametrize("words", REFUSED)
def test_a_model_that_breaks_the_contract_is_refused_in_one_line(words, net, data):
    with pytest.raises(BadModel, match=words) as caught:
        table(REFUSED[words](net), data)
    assert "\n" not in str(caught.value)


def test_one_sigmoid_logit_works_as_the_message_says(net, data):
    x, y = data
    one = Around(net, lambda n, x: n(x)[:, 1:2] - n(x)[:, :1])
    two = bench.wrap(one, output=lambda z: torch.cat([-z / 2, z / 2], 1))
    found = table(two, (x, y.clamp_max(1)), NAMES[:2])
    assert len(found) == len(x)


def test_a_model_on_several_devices_is_left_alone(net, data):
    split = Around(net, lambda n, x: n(x))
    split.elsewhere = nn.Parameter(torch.zeros(1, device="meta"))
    split.to = None  # must not be called
    with pytest.raises(UsageError, match="device: expected none for a model on meta, cpu, got cpu"):
        table(split, data, device="cpu")


def test_wrap_normalises_and_resizes(net, data):
    x, y = data
    mean, std = (0.3,), (0.5,)
    seen = []
    inner = Around(net, lambda n, z: (seen.append(z.detach().clone()), n(z))[1])
    model = bench.wrap(inner, mean=mean, std=std)
    assert torch.allclose(model(x), net((x - 0.3) / 0.5))
    big = torch.rand(3, 1, 12, 12)
    small = F.interpolate(big, (6, 6), mode="bilinear", antialias=True, align_corners=False)
    assert torch.equal(bench.wrap(net, resize=6)(big), net(small))
    assert torch.equal(bench.wrap(net, resize=(6, 6))(big), net(small))
    found = table(bench.wrap(net, mean=mean, std=std, resize=6), (F.interpolate(x, 12), y))
    assert found["hessian_norm"].notna().all()
    assert found[f"pgd_l2_{EPS}_robust"].mean() < found["clean_correct"].mean()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"model": 3}, "expected a model or a function, got int"),
        ({"std": 0}, "std: expected positive numbers, got 0"),
        ({"std": (1.0, -1.0, 1.0)}, "std: expected positive numbers, got -1"),
        ({"mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0)}, "expected as many std as mean, got 2 and 3"),
        ({"resize": 0}, "resize: expected a whole number from 1 up, got 0"),
        ({"resize": (1, 2, 3)}, "expected \\(height, width\\), got 3 numbers"),
        ({"output": 1.5}, "output: expected a name, a place or a function, got float"),
    ],
)
def test_wrap_refuses_in_one_line(arguments, words):
    with pytest.raises(UsageError, match=f"wrap: .*{words}"):
        bench.wrap(**{"model": nn.Identity(), **arguments})


def test_an_output_that_is_not_there_is_named(net, data):
    with pytest.raises(BadModel, match=r"expected 'logits' in the model's answer, got dict without it"):
        table(bench.wrap(Around(net, lambda n, x: {"out": n(x)}), output="logits"), data)


def test_a_wrapped_function_is_put_into_eval_mode_and_back(net, data):
    expected = table(net, data, NAMES[:2])
    net.train()
    GLOBAL["net"] = net
    found = table(bench.wrap(lambda x: net(x)), data, NAMES[:2])
    pd.testing.assert_frame_equal(found, expected)
    assert net.training


class _Skeleton(nn.Module):
    """Weights outside the module, which is a skeleton on the meta device."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.weights = {k: v.detach().clone() for k, v in net.named_parameters()}
        self.skeleton = copy.deepcopy(net).to("meta")

    def forward(self, x: Tensor) -> Tensor:
        return torch.func.functional_call(self.skeleton, self.weights, (x,))


def _plain() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Softplus(), nn.Linear(8, 3)).eval()
    return net, (torch.rand(6, 1, 4, 4), torch.arange(6) % 3)


def test_a_skeleton_on_the_meta_device_gives_the_numbers_of_its_weights() -> None:
    net, data = _plain()
    names = ["accuracy", "pgd_l2", "curvature"]
    expected = bench.evaluate(net, data=data, evaluations=names, eps=0.5)
    found = bench.evaluate(_Skeleton(net).eval(), data=data, evaluations=names, eps=0.5)
    for column in ("margin", "pgd_l2_0.5_robust", "curvature"):
        np.testing.assert_allclose(found[column].astype(float), expected[column].astype(float), rtol=1e-4)


def test_a_model_that_begins_with_an_in_place_layer_is_refused_with_its_cause_and_wrapped() -> None:
    net, data = _plain()
    first = nn.Sequential(nn.ReLU(inplace=True), net)
    with pytest.raises(BadModel, match=r"changes its input in place\. Write bench\.wrap"):
        bench.evaluate(first, data=data, evaluations=["pgd_l2"], eps=0.5)
    found = bench.evaluate(bench.wrap(first), data=data, evaluations=["pgd_l2"], eps=0.5)
    assert len(found) == 6


def test_nan_on_some_images_says_on_how_many() -> None:
    net, data = _plain()

    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            return torch.where((x.mean((1, 2, 3)) > data[0].mean())[:, None], torch.nan, self.net(x))

    with pytest.raises(BadModel, match=r"got NaN or infinity on \d of \d images\. Check its forward"):
        bench.evaluate(Part(), data=data, evaluations=["accuracy"])
