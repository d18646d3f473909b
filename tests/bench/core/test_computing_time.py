"""What is counted as a computation's time: its own threads' work, not what waits, not what others do."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from bench.core import gpu_programs
from bench.core.computing_time import ComputingTime, Stopwatch

CPU = torch.device("cpu")


def burn(seconds: float) -> None:
    """Compute until this thread has used so much CPU time."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        sum(range(1000))


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_work_is_counted_and_waiting_is_not(one_thread: None) -> None:
    watch = Stopwatch(CPU)
    burn(0.05)
    time.sleep(0.2)
    found = watch.read()
    assert 0.05 <= found.cpu < 0.2
    assert found.cpu == found.thread == found.cost
    assert found.wall >= 0.25
    assert found.device is None


def test_what_another_thread_computes_is_not_counted(one_thread: None) -> None:
    watch = Stopwatch(CPU)
    other = threading.Thread(target=burn, args=(0.3,))
    other.start()
    burn(0.05)
    other.join()
    assert watch.read().cpu < 0.3


def test_with_several_threads_all_of_the_process_is_counted() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        watch = Stopwatch(CPU)
        other = threading.Thread(target=burn, args=(0.3,))
        other.start()
        other.join()
        found = watch.read()
    finally:
        torch.set_num_threads(threads)
    assert found.cpu >= 0.3 > found.thread


def test_a_restart_forgets(one_thread: None) -> None:
    watch = Stopwatch(CPU)
    burn(0.1)
    watch.restart()
    assert watch.read().cpu < 0.1


def test_times_add_up_and_a_gpus_is_its_own() -> None:
    total = ComputingTime(1.0, 1.0, 2.0) + ComputingTime(0.5, 0.25, 1.0)
    assert (total.cpu, total.thread, total.wall, total.device) == (1.5, 1.25, 3.0, None)
    assert total.as_data() == {"cpu_seconds": 1.5, "thread_seconds": 1.25, "wall_seconds": 3.0}
    gpu = total + ComputingTime(0.1, 0.1, 0.1, device=4.0) + ComputingTime(device=2.0)
    assert gpu.cost == gpu.as_data()["device_seconds"] == 6.0
    assert "device_programs" not in gpu.as_data()
    shared = gpu + ComputingTime(device=1.0, programs=3) + ComputingTime(device=1.0, programs=1)
    assert shared.as_data()["device_programs"] == 3


@pytest.mark.parametrize(
    ("on_device", "own", "programs"),
    [
        ({7}, {7}, 1),
        ({7, 8}, {7, 8, 9}, 1),  # with a process that this one has started
        ({7, 8}, {7}, 2),
        ({104, 105}, {7}, 2),  # in a container: the host's numbers, one of which is this program's
        ({104}, {7}, 1),
        (set(), {7}, 1),
    ],
)
def test_programs_on_a_gpu_are_counted(on_device: set[int], own: set[int], programs: int) -> None:
    assert gpu_programs.count(on_device, own) == programs


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpus_programs_are_known() -> None:
    gpu = torch.device("cuda")
    torch.ones(1, device=gpu)
    assert (gpu_programs.on_device(gpu) or 0) >= 1
