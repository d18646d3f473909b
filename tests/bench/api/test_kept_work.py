"""`out=`: an interrupted call goes on where it was; `progress=`: what a call says; RobustBench's further arguments."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import transforms

import bench
from bench.api import robustbench
from bench.core.errors import LockedError, UsageError
from bench.data.split import Dataset, Split
from bench.store.store import Store


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Softplus(), nn.Linear(16, 10))


@pytest.fixture(scope="module")
def data() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.RandomState(0)
    return random.rand(1100, 1, 8, 8).astype(np.float32), random.randint(0, 10, 1100)


class Counting(nn.Module):
    """A network that counts its calls, and may be told to stop."""

    def __init__(self, net: nn.Module, last: int | None = None) -> None:
        super().__init__()
        self.net, self.calls, self.last = net, 0, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.last is not None and self.calls > self.last:
            raise KeyboardInterrupt
        return self.net(x)


def test_an_interrupted_call_goes_on_and_gives_the_same(net, data, tmp_path):
    plain = bench.evaluate(net, data=data, evaluations=["accuracy", "pgd_l2"], eps=0.3, progress=False)
    calls = Counting(net)
    bench.evaluate(calls, data=data, evaluations=["accuracy", "pgd_l2"], eps=0.3, out=tmp_path / "other")
    broken = Counting(net, last=calls.calls * 2 // 3)
    with pytest.raises(KeyboardInterrupt):
        bench.evaluate(broken, data=data, evaluations=["accuracy", "pgd_l2"], eps=0.3, out=tmp_path)
    again = Counting(net)
    found = bench.evaluate(again, data=data, evaluations=["accuracy", "pgd_l2"], eps=0.3, out=tmp_path)
    assert again.calls < calls.calls * 3 // 4  # the first of three chunks is not computed again
    pd.testing.assert_frame_equal(found, plain)
    assert found.attrs["cost"]["pgd_l2"]["forwards"] == plain.attrs["cost"]["pgd_l2"]["forwards"]
    third = Counting(net)
    pd.testing.assert_frame_equal(
        bench.evaluate(third, data=data, evaluations=["accuracy", "pgd_l2"], eps=0.3, out=tmp_path), plain
    )
    assert third.calls < 20  # the door and the probe


def test_what_is_kept_is_of_this_model_these_images_and_these_arguments(net, data, tmp_path):
    x, y = data[0][:8], data[1][:8]
    first = bench.evaluate(net, data=(x, y), evaluations="accuracy", out=tmp_path)
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert not bench.evaluate(other, data=(x, y), evaluations="accuracy", out=tmp_path).equals(first)
    assert not bench.evaluate(net, data=(1 - x, y), evaluations="accuracy", out=tmp_path).equals(first)
    assert bench.evaluate(net, data=(x, y), evaluations="accuracy", out=tmp_path).equals(first)
    doubled = bench.wrap(net, mean=[0.0], std=[0.5])  # the same weights, another function
    assert not bench.evaluate(doubled, data=(x, y), evaluations="accuracy", out=tmp_path)["margin"].equals(
        first["margin"]
    )


def test_two_calls_do_not_compute_the_same_at_once(net, data, tmp_path, monkeypatch):
    monkeypatch.setattr("bench.store.leases.Leases.claim", lambda *_: None)
    monkeypatch.setattr("bench.store.leases.Leases.holder", lambda *_: "somewhere, process 1")
    with pytest.raises(LockedError, match="one that somewhere, process 1 computes"):
        bench.evaluate(net, data=(data[0][:4], data[1][:4]), evaluations="accuracy", out=tmp_path)


def test_trust_is_assessed_on_kept_work_too(net, data, tmp_path):
    some = data[0][:12], data[1][:12]
    names = ["accuracy", "pgd_l2", "trust"]
    plain = bench.evaluate(net, data=some, evaluations=names, eps=0.3)
    for _ in range(2):
        kept = bench.evaluate(net, data=some, evaluations=names, eps=0.3, out=tmp_path)
        assert kept.attrs["trust"]["grade"] == plain.attrs["trust"]["grade"]
        pd.testing.assert_frame_equal(kept, plain)


def test_progress_is_a_line_per_evaluation_to_a_function(net, data, capsys):
    lines: list[str] = []
    some = data[0][:6], data[1][:6]
    bench.evaluate(net, data=some, evaluations=["accuracy", "pgd_l2"], eps=0.3, progress=lines.append)
    assert [line.partition(",")[0] for line in lines] == ["accuracy: 6 images", "pgd_l2: 6 images"]
    bench.evaluate(net, data=some, evaluations="accuracy")
    assert capsys.readouterr() == ("", "")  # no terminal: nothing is said
    bench.evaluate(net, data=some, evaluations="accuracy", progress=True)


def test_out_and_images_exclude_each_other(net, data, tmp_path):
    with pytest.raises(UsageError, match="expected either out= or return_adversarial=True, got both"):
        bench.evaluate(net, data=data, out=tmp_path, return_adversarial=True)


def test_robustbench_further_arguments_work_or_name_what_does(net, tmp_path, monkeypatch):
    log = tmp_path / "log.txt"
    call = {"dataset": "digits", "n_examples": 4, "threat_model": "L2", "eps": 0.3}
    clean, robust = bench.benchmark(net, **call, log_path=log, out=tmp_path / "kept", progress=False)
    lines = log.read_text().splitlines()
    assert lines[-1] == f"clean accuracy {clean:.2%}, robust accuracy {robust:.2%}"
    assert [line.partition(":")[0] for line in lines[:-1]] == ["accuracy", "autoattack_l2"]
    assert (clean, robust) == bench.benchmark(net, **call, out=tmp_path / "kept")
    with Store.open(tmp_path / "kept") as store:
        assert len(store.cells("evaluation")) == 2
    for arguments, words in (
        ({"aa_state_path": "state.json"}, "Write out='state.json'"),
        ({"preprocessing": "Res256Crop224"}, "expected a function of a PIL image, got 'Res256Crop224'"),
        ({"preprocessing": transforms.ToTensor()}, "expected a data set of 8-bit pictures, got float32"),
        ({"corruptions_data_dir": "x"}, "measures no common corruptions"),
    ):
        with pytest.raises(UsageError, match=words):
            bench.benchmark(net, **call, **arguments)


def test_preprocessing_is_applied_to_each_picture(monkeypatch):
    pixels = np.random.RandomState(0).randint(0, 255, (5, 3, 4, 4)).astype(np.uint8)
    split = Split.of(pixels, np.arange(5))
    loaded = Dataset("x", False, "npz", tuple("01234"), (3, 4, 4), split, split, 5, 5, "", "")
    monkeypatch.setattr(robustbench.catalog, "load", lambda *_, **__: loaded)
    seen: list[tuple[int, ...]] = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5))
    model.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape[1:])))
    transform = transforms.Compose([transforms.Resize(8, Image.Resampling.NEAREST), transforms.ToTensor()])
    bench.benchmark(model, dataset="cifar10", n_examples=5, threat_model="L2", eps=0.1, preprocessing=transform)
    assert set(seen) == {(3, 8, 8)}
    first = robustbench._preprocessed(pixels, transforms.ToTensor())
    assert torch.equal((first * 255).round().to(torch.uint8), torch.tensor(pixels))


def test_a_torchvision_network_is_wrapped_and_measured(tmp_path):
    from torchvision.models import mobilenet_v3_small

    torch.manual_seed(0)
    model = bench.wrap(
        mobilenet_v3_small(num_classes=10), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), resize=32
    )
    x, y = torch.rand(6, 3, 16, 16), torch.arange(6)
    table = bench.evaluate(model, data=(x, y), evaluations=["accuracy", "pgd_l2"], eps=0.1)
    assert table["margin"].notna().all()
