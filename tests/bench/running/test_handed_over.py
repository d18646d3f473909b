"""Models that were trained elsewhere become rows: `evaluate`, what it reads and refuses, and what the row serves."""

from __future__ import annotations

import json
import os
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import bench
from bench import reports
from bench.core.errors import IntegrityError, SecurityError, UsageError
from bench.core.hashing import sha256
from bench.store.foreign_weights import load_into, read_state
from tests.bench.short_suite import SHORT_EVALUATIONS
from tests.bench.store.folders import change

FACTORY = '''
import os

from torch import nn
import bench


def net():
    """A linear classifier."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


def wrapped():
    """The same, normalised."""
    return bench.wrap(net(), mean=[0.3], std=[0.4])


def wide():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12))


def broken():
    raise RuntimeError("no such file")


def gone():
    os._exit(0)


def number():
    return 3


def dies():
    class Dies(nn.Module):
        def forward(self, x):
            os._exit(0)

    return Dies()


def picky():
    class Picky(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = net()

        def forward(self, x):
            if (x == 0).float().mean() < 0.1:
                raise ValueError("no digit")
            return self.network(x)

    return Picky()
'''


@pytest.fixture
def place(tmp_path, write_suite) -> Path:
    """Return a folder with a suite, a factory and weights in two forms."""
    write_suite(tmp_path / "tiny.toml", ["standard"], SHORT_EVALUATIONS, epochs=1)
    (tmp_path / "net.py").write_text(FACTORY)
    torch.manual_seed(1)
    state = {"1.weight": torch.randn(10, 64), "1.bias": torch.zeros(10)}
    save_file(state, tmp_path / "handed.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "handed.pt")
    return tmp_path


@pytest.fixture
def evaluate(place, cli):
    """Call the command on a factory of the file."""

    def call(factory: str, *arguments: object):
        head = ["evaluate", "--suite", place / "tiny.toml", "--out", place / "out", "--device", "cpu"]
        return cli(*head, "--model", f"{place / 'net.py'}:{factory}", *arguments)

    return call


def test_a_checkpoint_becomes_a_row_that_says_where_it_comes_from(place, evaluate, cli):
    weights = place / "handed.safetensors"
    done = evaluate("net", "--weights", weights, "--source", "Somebody 2020")
    assert done.code == 0, done.err
    assert re.search(r"handed\b.*│", done.out), done.out
    manifest = json.loads((place / "out" / "manifest.json").read_text())
    row = next(r for r in manifest["rows"] if r["defense"] == "handed")
    assert (row["provenance"], row["recipe"], row["hyperparameters"]) == ("handed over", {}, {})
    page = (place / "out" / "leaderboard.html").read_text()
    assert ">handed over</span>" in page
    assert f"weights handed.safetensors, SHA-256 {sha256(weights)}; network from net.py:net" in page
    again = evaluate("net", "--weights", weights, "--source", "Somebody 2020")
    assert "3 cells, 3 cached" in again.err
    renamed = evaluate("net", "--weights", weights, "--name", "other", "--dry-run")
    assert "cells: 3, cached: 3" in renamed.out
    assert cli("verify", "--out", place / "out", "--include", place / "net.py").code == 0
    model = bench.load_model("handed", out=place / "out", include=place / "net.py")
    assert torch.equal(model[1].weight, read_state(weights)["1.weight"])


def test_models_stand_beside_trained_rows_in_any_order(place, evaluate, cli):
    """Two forms of the same weights and a trained row: three rows, two of them with the same numbers."""
    for name in ("handed.safetensors", "handed.pt"):
        assert evaluate("net", "--weights", place / name, "--name", name.replace(".", "-")).code == 0
    trained = cli("run", "--suite", place / "tiny.toml", "--out", place / "out", "--train-limit", 100)
    assert trained.code == 0, trained.err
    assert not re.search(r"handed\S*: time ×", trained.out)  # nothing is missing of a cost that it has not
    found = bench.load_results(place / "out")
    assert set(found.leaderboard["defense"]) == {"handed-safetensors", "handed-pt", "standard"}
    assert found.leaderboard["rank"].notna().all()
    rows = [t.drop(columns="defense").reset_index(drop=True) for _, t in found.examples.groupby("defense")]
    assert [len(table) for table in rows] == [40, 40, 40]
    assert rows[0].equals(rows[1])  # by name: handed-pt, handed-safetensors, standard
    assert evaluate("wrapped", "--name", "third").code == 0
    assert len(bench.load_results(place / "out").leaderboard) == 4
    assert cli("verify", "--out", place / "out", "--include", place / "net.py").code == 0


def test_an_edited_factory_is_measured_anew_and_a_comment_is_not(place, evaluate):
    weights = ("--weights", place / "handed.safetensors")
    assert evaluate("net", *weights).code == 0
    (place / "net.py").write_text(FACTORY + "# a comment\n")
    assert "cells: 3, cached: 3" in evaluate("net", *weights, "--dry-run").out
    (place / "net.py").write_text(FACTORY.replace("Flatten()", "Flatten(1)"))
    said = evaluate("net", *weights, "--dry-run").out
    assert "cells: 3, cached: 0" in said
    assert "sources changed: net.py" in said


# Arguments, the exit code, and the words of the refusal.
REFUSED = {
    "no such factory": (
        ("nett",),
        (),
        2,
        "expected a function nett in net.py, got none of that name. Did you mean 'net'?",
    ),
    "no weights there": (("net",), ("--weights", "none.pt"), 2, "--weights: expected a file, got 'none.pt'"),
    "registered name": (("net",), ("--name", "lcnn"), 2, "--name: expected a new name, got 'lcnn'"),
    "bad name": (("net",), ("--name", "a b"), 2, "--name: expected letters"),
    "other classes": (("wide",), (), 2, "model Sequential: expected 10 classes, got 12"),
    "factory fails": (("broken",), (), 2, "net.py:broken: expected a network from a call without arguments"),
    "factory ends the process": (("gone",), (), 2, "defense gone: expected a factory that returns a network, got"),
    "network ends the process": (("dies",), (), 2, "dies seed 0: expected a result, got the end of its process by"),
    "network raises on other images": (
        ("picky",),
        (),
        2,
        "shape (8, 1, 8, 8), got ValueError: no digit. A model takes",
    ),
    "no network": (("number",), (), 2, "number"),
    "other shapes": (("net",), ("--weights", "shape.pt"), 2, "1.weight of shape (10, 32) instead of (10, 64)"),
    "other names": (("net",), ("--weights", "names.safetensors"), 2, "got none for 1.weight, 1.bias; w, which it has"),
    "NaN": (("net",), ("--weights", "nan.pt"), 2, "model Sequential: expected finite weights, got NaN in 1.weight"),
    "no state_dict": (
        ("net",),
        ("--weights", "list.pt"),
        2,
        "list.pt: expected a state_dict, names to tensors, got list",
    ),
    "empty file": (("net",), ("--weights", "empty.pt"), 3, "empty.pt: expected what torch.save wrote, got an empty"),
    "text": (
        ("net",),
        ("--weights", "text.pt"),
        3,
        "text.pt: expected what torch.save wrote, got another kind of file",
    ),
    "truncated": (("net",), ("--weights", "half.pt"), 3, "half.pt: expected what torch.save wrote"),
    "archive bomb": (("net",), ("--weights", "bomb.pt"), 3, "bytes that unfold to 4,000,"),
    "damaged archive": (("net",), ("--weights", "directory.pt"), 3, "directory.pt: expected what torch.save wrote"),
    "more claimed than there is": (("net",), ("--weights", "claim.pt"), 3, "claim.pt: expected what torch.save wrote"),
    "not safetensors": (
        ("net",),
        ("--weights", "junk.safetensors"),
        3,
        "junk.safetensors: expected a safetensors file",
    ),
    "code in the file": (("net",), ("--weights", "evil.pt"), 5, "objects that only code restores (posix.mkdir). Where"),
}


class Dangerous:
    """Its pickle makes a folder where the tests run."""

    def __reduce__(self):
        return os.mkdir, ("run-by-a-pickle",)


def _written_again(path: Path, to: Path, name: str, change: Callable[[bytes], bytes]) -> None:
    """Write what `torch.save` wrote with one entry changed, compressed."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for entry in old.infolist():
            content = old.read(entry)
            spoiled = change(content) if entry.filename.endswith(name) else content
            new.writestr(entry.filename, spoiled, zipfile.ZIP_DEFLATED if len(spoiled) > 10**6 else zipfile.ZIP_STORED)
            assert not entry.filename.endswith(name) or spoiled != content


@pytest.fixture
def bad_files(place, monkeypatch) -> None:
    """Write the files of weights that are refused, and work in their folder."""
    torch.save({"1.weight": torch.zeros(10, 32), "1.bias": torch.zeros(10)}, place / "shape.pt")
    save_file({"w": torch.zeros(2)}, place / "names.safetensors")
    torch.save({"1.weight": torch.full((10, 64), float("nan")), "1.bias": torch.zeros(10)}, place / "nan.pt")
    torch.save([torch.zeros(1)], place / "list.pt")
    (place / "empty.pt").touch()
    (place / "text.pt").write_text("hello")
    (place / "half.pt").write_bytes((place / "handed.pt").read_bytes()[:-300])
    whole = (place / "handed.pt").read_bytes()
    (place / "directory.pt").write_bytes(whole.replace(b"PK\x01\x02", b"PK\x01\x03"))
    _written_again(place / "handed.pt", place / "bomb.pt", "data/0", lambda _: bytes(4_000_000))
    more = struct.pack("<i", 10**9)  # elements, in the place of the 640 of the first tensor
    _written_again(
        place / "handed.pt", place / "claim.pt", "data.pkl", lambda c: c.replace(b"M\x80\x02tq", b"J" + more + b"tq")
    )
    (place / "junk.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    torch.save({"state_dict": Dangerous()}, place / "evil.pt")
    monkeypatch.chdir(place)


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.usefixtures("bad_files")
def test_what_is_refused_names_the_cause_and_leaves_nothing(place, evaluate, case):
    factory, arguments, code, words = REFUSED[case]
    done = evaluate(*factory, *arguments, "--quiet")
    assert (done.code, words in done.err) == (code, True), done.err
    assert len(done.err.splitlines()) == 1, done.err
    assert not (place / "out").exists()
    assert not (place / "run-by-a-pickle").exists()


@pytest.mark.usefixtures("bad_files")
def test_a_refused_model_leaves_a_board_as_it_was(place, evaluate):
    """Also in a dry run, and where the row is on the board with other weights."""
    assert evaluate("net", "--weights", "handed.pt", "--name", "handed_mine").code == 0
    before = {path.name: path.read_bytes() for path in (place / "out").glob("leaderboard.*")}
    assert len(bench.load_results(place / "out").leaderboard) == 1
    for dry in ((), ("--dry-run",)):
        assert evaluate("net", "--weights", "shape.pt", "--name", "handed_mine", *dry).code == 2
        assert evaluate("net", "--weights", "evil.pt", "--name", "theirs", *dry).code == 5
    reports.write(place / "out")
    assert {path.name: path.read_bytes() for path in (place / "out").glob("leaderboard.*")} == before


def test_a_file_without_a_factory_is_told_what_it_defines(place, cli):
    done = cli("evaluate", "--suite", place / "tiny.toml", "--model", place / "net.py")
    assert done.code == 2
    assert "expected FILE.py:FACTORY" in done.err
    assert "It defines net, wrapped, wide, broken, " in done.err


def test_verify_asks_for_the_file_that_builds_the_network(place, cli, tmp_path_factory):
    other = tmp_path_factory.mktemp("elsewhere")
    (other / "own_net.py").write_text(FACTORY)
    done = cli("evaluate", "--suite", place / "tiny.toml", "--out", place / "out", "--model", f"{other}/own_net.py:net")
    assert done.code == 0, done.err
    from bench.core import registry

    del registry.defenses._entries["net"]  # as in a new process
    from bench.core import user_code

    included = dict(user_code._included)
    user_code._included.clear()
    try:
        done = cli("verify", "--out", place / "out")
        assert done.code == 2
        assert "net: expected own_net.py that builds its network, got none." in done.err
    finally:
        user_code._included.update(included)
    assert cli("verify", "--out", place / "out", "--include", other / "own_net.py").code == 0


def test_a_damaged_record_of_a_model_is_computed_anew(place, evaluate):
    assert evaluate("net", "--weights", place / "handed.pt").code == 0
    change(place / "out", "UPDATE cells SET info = '{}' WHERE kind = 'train'")
    done = evaluate("net", "--weights", place / "handed.pt")
    assert (done.code, "computed again where it is needed" in done.err) == (0, True), done.err


class Net(nn.Module):
    """A network with everything a state_dict may hold."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)


FORMS = {
    "as it is": lambda s: s,
    "DataParallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "compiled within DataParallel": lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()},
    "training script": lambda s: {"epoch": 1, "optimizer": {"lr": 0.1}, "model_state_dict": s},
    "nested": lambda s: {"net": {"state_dict": s}},
    "torch before 0.4.1": lambda s: {k: v for k, v in s.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("wrapped", [False, True])
def test_the_usual_forms_of_a_checkpoint_are_loaded_whole(tmp_path, form, wrapped):
    torch.manual_seed(0)
    source, path = Net(), tmp_path / "net.pth"
    torch.save(FORMS[form](source.state_dict()), path)
    torch.manual_seed(1)
    target = Net()
    load_into(bench.wrap(target, mean=[0.5]) if wrapped else target, path, sha256(path))
    for name, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name


class Foreign:
    """A class that only its module restores."""


def test_damaged_and_dangerous_files_are_refused(tmp_path):
    path = tmp_path / "net.pt"
    torch.save(Foreign(), path)
    with pytest.raises(SecurityError, match="expected tensors in plain containers"):
        read_state(path)
    torch.save([torch.zeros(1)], path)
    with pytest.raises(UsageError, match="expected a state_dict, names to tensors, got list"):
        read_state(path)
    torch.save({"epoch": 1}, path)
    with pytest.raises(UsageError, match="got epoch"):
        read_state(path)
    for text in ("<!doctype html>", "garbage\n", ""):
        path.write_text(text)
        with pytest.raises(IntegrityError, match=r"expected what torch\.save wrote"):
            read_state(path)
    torch.save(Net().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(IntegrityError, match=r"expected what torch\.save wrote"):
        read_state(path)
    broken = tmp_path / "net.safetensors"
    broken.write_bytes(b"\x08\0\0\0\0\0\0\0{}")
    with pytest.raises(IntegrityError, match="expected a safetensors file"):
        read_state(broken)
    torch.save(Net().state_dict(), path)
    with pytest.raises(IntegrityError, match="expected the file that the command has read"):
        load_into(Net(), path, "0" * 64)
    with pytest.raises(UsageError, match=r"got none for weight, bias; conv.weight, .* which it has not"):
        load_into(nn.Linear(2, 2), path, sha256(path))


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_torchscript_is_told_how_to_be_loaded(tmp_path):
    path = tmp_path / "script.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), path)
    with pytest.raises(UsageError, match=r"got TorchScript. Call torch.jit.load in the factory"):
        read_state(path)
