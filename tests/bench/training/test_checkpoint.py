"""A checkpoint is believed only if it is whole, of this training and within its steps."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.core.errors import IntegrityError, MachineError, Stopped
from bench.core.recipe import PAPER, Recipe
from bench.core.records import Defense
from bench.data.split import Split
from bench.store import owned_file
from bench.training.checkpoint import CheckpointFile, TrainState, load_checkpoint, save_checkpoint
from bench.training.epoch import EpochRecord
from bench.training.loop import TrainJob, train

CPU = torch.device("cpu")


def linear(num_classes: int, in_shape: tuple[int, int, int], backbone: str) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, num_classes))


def job(seed: int = 0) -> TrainJob:
    rng = np.random.default_rng(0)
    split = Split.of(rng.random((40, 1, 2, 2)).astype(np.float32), rng.integers(0, 2, 40))
    defense = Defense("linear", linear, "here", 1)
    recipe = PAPER.with_overrides(Recipe(epochs=3, batch_size=10, augment="none"))
    return TrainJob(defense, {}, recipe, "none", 2, (1, 2, 2), seed, split)


def stopped_at(path: Path, steps: int, seed: int = 0) -> None:
    taken = iter(range(1, 100))
    with pytest.raises(Stopped):
        train(job(seed), CPU, checkpoint=path, should_stop=lambda: next(taken) == steps)


def weights(model: torch.nn.Module) -> bytes:
    return b"".join(v.numpy().tobytes() for v in model.state_dict().values())


def test_a_stopped_training_ends_in_the_same_weights(tmp_path: Path) -> None:
    stopped_at(tmp_path / "cell.pt", 5)
    assert weights(train(job(), CPU, checkpoint=tmp_path / "cell.pt")) == weights(train(job(), CPU))


@pytest.mark.parametrize("steps", range(1, 12))
def test_a_training_stopped_anywhere_writes_every_epochs_record_once(tmp_path: Path, steps: int) -> None:
    path, taken, records = tmp_path / "cell.pt", iter(range(1, 100)), list[EpochRecord]()
    with pytest.raises(Stopped, match=f"after step {steps};"):
        train(job(), CPU, checkpoint=path, on_epoch=records.append, should_stop=lambda: next(taken) == steps)
    trained = train(job(), CPU, checkpoint=path, on_epoch=records.append)
    whole = list[EpochRecord]()
    assert weights(trained) == weights(train(job(), CPU, on_epoch=whole.append))
    assert [(r.epoch, r.loss, r.train_accuracy) for r in records] == [
        (r.epoch, r.loss, r.train_accuracy) for r in whole
    ]
    assert [r.epoch for r in records] == [1, 2, 3]


def test_a_stop_at_the_last_step_lets_the_training_end(tmp_path: Path) -> None:
    taken = iter(range(1, 100))
    trained = train(job(), CPU, checkpoint=tmp_path / "cell.pt", should_stop=lambda: next(taken) == 12)
    assert weights(trained) == weights(train(job(), CPU))


def refused(path: Path, match: str, seed: int = 0) -> None:
    """Check that a file is named, set aside and not trained on from."""
    content, said = path.read_bytes(), list[str]()
    file, state = CheckpointFile(path, f"{path.stem} linear seed {seed}", 12), state_at(0)
    with pytest.raises(IntegrityError, match=match) as caught:
        load_checkpoint(file, state, CPU)
    assert "expected a training checkpoint of this cell, got" in str(caught.value)
    trained = train(job(seed), CPU, checkpoint=path, log=said.append)
    assert weights(trained) == weights(train(job(seed), CPU))
    assert said == [f"{caught.value} It is set aside; training from the start."]
    assert "\n" not in said[0]
    assert not path.exists()
    assert path.with_name(f"{path.name}.damaged").read_bytes() == content


@pytest.mark.parametrize("place", [0.0, 0.1, 0.3, 0.5, 0.8, 0.999])
def test_one_flipped_bit_is_found(tmp_path: Path, place: float) -> None:
    path = tmp_path / "cell.pt"
    stopped_at(path, 5)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 1
    path.write_bytes(content)
    refused(path, "cell.pt: expected")


@pytest.mark.parametrize("keep", [0, 1, 50, 1000])
def test_a_truncated_file_is_found(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "cell.pt"
    stopped_at(path, 5)
    path.write_bytes(path.read_bytes()[:keep])
    refused(path, "cell.pt: expected")


def test_another_trainings_checkpoint_is_refused(tmp_path: Path) -> None:
    stopped_at(tmp_path / "cell.pt", 5)
    (tmp_path / "cell.pt").rename(tmp_path / "other.pt")
    refused(tmp_path / "other.pt", "got one of 'cell linear seed 0', not of 'other linear seed 0'")
    stopped_at(tmp_path / "cell.pt", 5, seed=1)
    refused(tmp_path / "cell.pt", "got one of 'cell linear seed 1', not of 'cell linear seed 0'")


def state_at(step: int) -> TrainState:
    model = job().build()
    return TrainState(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), step)


@pytest.mark.parametrize("step", [-1, 13, 10**9, True])
def test_a_step_outside_the_training_is_refused(tmp_path: Path, step: int) -> None:
    file = CheckpointFile(tmp_path / "cell.pt", "cell linear seed 0", 12)
    save_checkpoint(file, state_at(step))
    refused(file.path, f"got step {step} of a training of 12")


def test_an_optimiser_of_another_network_is_refused(tmp_path: Path) -> None:
    file, state = CheckpointFile(tmp_path / "cell.pt", "cell linear seed 0", 12), state_at(3)
    first = state.optimizer.param_groups[0]["params"][0]
    state.optimizer.state[first]["momentum_buffer"] = torch.zeros(7)
    save_checkpoint(file, state)
    refused(file.path, r"got a momentum \(7,\) of a parameter \(2, 4\)")


def test_a_pickle_in_its_place_is_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "cell.pt"
    path.write_bytes(b"cos\nsystem\n(S'touch " + os.fsencode(tmp_path / "owned") + b"'\ntR.")
    refused(path, "cell.pt: expected")
    assert not (tmp_path / "owned").exists()


def test_a_full_disk_is_named_and_the_old_checkpoint_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = CheckpointFile(tmp_path / "cell.pt", "cell linear seed 0", 12)
    save_checkpoint(file, state_at(3))

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(MachineError, match="expected to write here, got No space left on device"):
        save_checkpoint(file, state_at(4))
    assert [p.name for p in tmp_path.iterdir()] == ["cell.pt"]
    state = state_at(0)
    load_checkpoint(file, state, CPU)
    assert state.step == 3


def test_a_head_without_an_end_is_not_searched_through(tmp_path: Path) -> None:
    path = tmp_path / "cell.pt"
    path.write_bytes(b"[" * (owned_file.LONGEST_HEAD + 1) + b"\n")
    refused(path, "got a file without a head")
