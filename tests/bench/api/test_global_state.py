"""Whatever the caller has switched on changes no result, and is put back."""

import contextlib
import threading

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import bench
from bench.attacks.apgd import apgd
from bench.attacks.fgsm import fgsm
from bench.attacks.pgd import pgd
from bench.attacks.square import square
from bench.core.torch_state import known_state
from bench.measuring.model_contract import BadModel


@contextlib.contextmanager
def switched(setter, getter, value):
    old = getter()
    setter(value)
    try:
        yield
    finally:
        setter(old)


@contextlib.contextmanager
def strict():
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def flushing():
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextlib.contextmanager
def no_multithreading():
    with torch.autograd.set_multithreading_enabled(False):
        yield


STATES = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: switched(torch.set_default_dtype, torch.get_default_dtype, torch.float64),
    "float16": lambda: switched(torch.set_default_dtype, torch.get_default_dtype, torch.float16),
    "meta": lambda: torch.device("meta"),
    "deterministic": strict,
    "anomaly": lambda: torch.autograd.set_detect_anomaly(True, check_nan=True),
    "threads": lambda: switched(torch.set_num_threads, torch.get_num_threads, torch.get_num_threads() + 1),
    "bfloat16 products": lambda: switched(
        torch.set_float32_matmul_precision, torch.get_float32_matmul_precision, "medium"
    ),
    "flushed denormals": flushing,
    "one backward thread": no_multithreading,
    "numpy raises": lambda: np.errstate(all="raise"),
    "both": lambda: _both(),
}


@contextlib.contextmanager
def _both():
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        yield


def snapshot():
    """Return every switch that a caller can set."""
    return (
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.is_anomaly_enabled(),
        torch.is_anomaly_check_nan_enabled(),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        float(torch.tensor(1e-39, device="cpu", dtype=torch.float32) * 1.0) == 0.0,
        torch._C._is_multithreading_enabled(),
        tuple(np.geterr().items()),
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.deterministic,
    )


def table(net, data):
    return bench.evaluate(net, data=data, evaluations=["accuracy", "pgd_l2", "fab_l2", "curvature"], eps=0.3)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("state", STATES)
def test_no_state_changes_a_table_and_each_is_put_back(state, net, data):
    expected = table(net, data)
    assert 0 < expected["pgd_l2_0.3_robust"].mean() < expected["clean_correct"].mean()
    with STATES[state]():
        before = snapshot()
        found = table(net, data)
        assert snapshot() == before
    pd.testing.assert_frame_equal(found, expected, check_exact=True)
    assert snapshot()[:6] == (False, True, False, torch.float32, torch.device("cpu"), False)


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("state", STATES)
def test_each_is_put_back_after_an_error(state):
    def fails():
        with known_state():
            assert torch.is_grad_enabled()
            assert torch.zeros(1).dtype is torch.float32
            assert torch.zeros(1).device.type == "cpu"
            raise KeyError

    with STATES[state]():
        before = snapshot()
        with pytest.raises(KeyError):
            fails()
        assert snapshot() == before


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("attack", [pgd, apgd, fgsm, square])
def test_no_state_changes_an_attack_that_is_called_directly(attack, state, net, data):
    x, y = data
    options = {"n_queries": 20} if attack is square else {}
    expected = attack(net, x, y, eps=0.3, seed=1, **options)
    with STATES[state]():
        before = snapshot()
        found = attack(net, x, y, eps=0.3, seed=1, **options)
        assert snapshot() == before
    assert torch.equal(found, expected)
    assert not torch.equal(expected, x)


def test_images_that_were_made_in_inference_mode_are_attacked(net, data):
    x, y = data
    expected = pgd(net, x, y, eps=0.3)
    with torch.inference_mode():
        made = x.clone(), y.clone()
        assert torch.equal(pgd(net, *made, eps=0.3), expected)
        assert bench.evaluate(net, data=made, evaluations=["pgd_l2"], eps=0.3)["pgd_l2_0.3_robust"].mean() < 0.75


def test_a_model_that_was_made_in_inference_mode_is_refused(data):
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    for call in (lambda: bench.evaluate(model, data=data), lambda: pgd(model, *data, eps=0.1)):
        with pytest.raises(ValueError, match=r"expected parameters made outside torch.inference_mode\(\)"):
            call()


def test_what_is_set_inside_on_purpose_stays():
    with known_state(), torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), known_state():
        assert not torch.is_grad_enabled()
        assert torch.is_autocast_enabled("cpu")


def test_threads_are_apart():
    """One thread inside a known state does not make another one believe that it is in one too."""
    seen = []

    def other():
        with torch.no_grad(), known_state():
            seen.append(torch.is_grad_enabled())

    with known_state():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert seen == [True]


def test_a_batch_norm_that_stays_in_train_mode_is_named(data):
    class Stubborn(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.last = nn.BatchNorm2d(1, track_running_stats=False), nn.Linear(36, 3)

        def forward(self, x):
            return self.last(self.norm(x).flatten(1))

    with pytest.raises(BadModel, match=r"for an image alone in eval mode.*other images"):
        bench.evaluate(Stubborn(), data=data)
